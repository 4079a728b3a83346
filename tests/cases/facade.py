"""The façade of a backend's package, one behaviour a test; each backend runs them as ``TestFacade``."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from importlib import import_module

import numpy as np
import pytest
from ptycho_contracts.problems import ContractError, MissingFileError
from ptycho_contracts.testing import reference
from ptycho_data.files import write_scan
from ptycho_data.simulate import simulate

TINY = {"gridsize": 1, "architecture": "unrolled", "width": 4, "iterations": 1, "accelerator": "cpu", "modes": 1}
INERT = """
import sys
import {package}
assert set({package}.__all__) <= set(dir({package}))
heavy = {{"torch", "tensorflow", "numpy", "scipy", "h5py", "matplotlib"}} & set(sys.modules)
assert not heavy, heavy
"""


class Facade:
    """The same for both backends; the fixture ``backend`` is a backend's name."""

    @pytest.fixture
    def package(self, backend):
        """The module that a notebook imports."""
        return import_module(f"ptycho_{backend}")

    @pytest.fixture
    def scan(self):
        """36 patterns of 16 x 16 pixels."""
        return simulate(N=16, n_patterns=36, step_px=2.0, photons_per_pattern=1e5, seed=2)

    def test_importing_is_inert(self, backend):
        """Invariant 34: nothing is loaded before it is used."""
        subprocess.run([sys.executable, "-c", INERT.format(package=f"ptycho_{backend}")], check=True)

    def test_an_unknown_name_is_an_attribute_error(self, package):
        with pytest.raises(AttributeError, match="has no attribute 'fit'"):
            _ = package.fit

    def test_every_name_is_there(self, package):
        assert all(getattr(package, name) is not None for name in package.__all__)

    def test_a_scan_and_its_file_are_the_same(self, package, scan, tmp_path):
        """Invariant 35: bytes on disk or arrays in memory, the result has the same bits."""
        write_scan(tmp_path / "scan.npz", scan)
        options = {"epochs": 2, "seed": 5, "accelerator": "cpu"}
        images = [package.reconstruct(what, **options)[0] for what in (scan, tmp_path / "scan.npz")]
        np.testing.assert_array_equal(images[0].object, images[1].object)
        np.testing.assert_array_equal(images[0].probe, images[1].probe)

    def test_residual_of_an_odd_side(self, package):
        """PHY-22: patterns of 15 x 15 pixels. Oracle: the NumPy reference on the image."""
        scan = simulate(N=15, n_patterns=16, step_px=2.0, photons_per_pattern=1e5, seed=3)
        image, summary = package.reconstruct(scan, epochs=1, modes=1, levels=1, accelerator="cpu")
        patches = reference.extract_patches(image.object, scan.positions_px, 15, image.origin_yx_px)
        expected = reference.residual(reference.simulate_counts(patches, image.probe), scan.counts())
        assert summary["residual"]["used"] == pytest.approx(expected, rel=1e-3)

    def test_held_out_indices_are_never_used(self, package, scan):
        """Indices as an array; what is held out has residuals and does not change the image."""
        held = np.array([3, 17, 20])
        dark = scan.measurements.copy()
        dark[held] = dark[held][::-1]
        options = {"epochs": 2, "seed": 5, "accelerator": "cpu", "hold_out": held}
        image, summary = package.reconstruct(scan, **options)
        assert summary["residual"]["held_out"] > 0
        other = dataclasses.replace(scan, measurements=dark)
        np.testing.assert_array_equal(package.reconstruct(other, **options)[0].object, image.object)

    def test_train_infer_save_load(self, package, scan, tmp_path):
        """Invariant 36: a model is not changed by inferring with it, and a saved one infers the same."""
        model, training = package.train(scan, epochs=1, batch_size=16, seed=1, **TINY)
        assert np.isfinite(training["training"]["losses"]["val_loss"])
        first, summary = package.infer(model, scan, refine=1, accelerator="cpu")
        again, _ = package.infer(model, scan, refine=1, accelerator="cpu")
        np.testing.assert_array_equal(first.object, again.object)
        package.save(tmp_path / "model.safetensors", model)
        for what in (tmp_path / "model.safetensors", package.load(tmp_path / "model.safetensors")):
            image, _ = package.infer(what, scan, refine=1, accelerator="cpu")
            np.testing.assert_array_equal(image.object, first.object)
        assert summary["patterns_per_cpu_second"] > 0

    def test_evaluate(self, package, scan):
        """An image beside its truth; a scan without one."""
        image, _ = package.reconstruct(scan, epochs=100, modes=1, accelerator="cpu")
        beside = package.evaluate(image, scan)
        assert beside.report["figures"]["complex_correlation"] > 0.9
        alone = package.evaluate(scan, epochs=2, accelerator="cpu")
        assert alone.report["residual_over_floor"]["used"] > 1
        assert alone.advice
        with pytest.raises(TypeError, match="needs a truth"):
            package.evaluate(image)

    def test_arrays_to_a_figure(self, package, scan, tmp_path):
        """From NumPy arrays to a picture."""
        arrays = package.scan_from_arrays(scan.measurements, scan.positions_px, measurement="counts", probe=scan.probe)
        image, _ = package.reconstruct(arrays, epochs=1, accelerator="cpu")
        package.plots.reconstruction(image).savefig(tmp_path / "image.png")
        assert (tmp_path / "image.png").stat().st_size > 2000

    def test_errors_name_arguments(self, package, scan, tmp_path):
        """Errors of the library speak Python: names of arguments, never flags."""
        with pytest.raises(ContractError, match="did you mean 'epochs'") as unknown:
            package.reconstruct(scan, epoch=2)
        assert "--" not in str(unknown.value)
        with pytest.raises(ContractError) as illegal:
            package.train(scan, gridsize=0)
        assert "gridsize" in str(illegal.value)
        assert "--" not in str(illegal.value)
        with pytest.raises(MissingFileError, match=r"absent\.npz"):
            package.reconstruct(tmp_path / "absent.npz")

    def test_options_without_effect_are_refused(self, package, scan):
        """CFG-24 to CFG-28: the same rules as the commands, with the same code."""
        image, _ = package.reconstruct(scan, epochs=1, modes=1, accelerator="cpu")
        half = np.arange(18)
        idle = [
            lambda: package.reconstruct(scan, gridsize=1),
            lambda: package.reconstruct(scan, learning_rate=1e-3),
            lambda: package.reconstruct(scan, nphotons=5e4),
            lambda: package.reconstruct(scan, val_fraction=0.1, validation=half),
            lambda: package.evaluate(scan, enable_checkpointing=True),
            lambda: package.evaluate(image, scan, epochs=3),
            lambda: package.evaluate(image, image, nphotons=1e5),
            lambda: package.train(scan, val_fraction=0.1, validation=scan, **TINY),
            lambda: package.train(scan, nphotons=1e5, **TINY),
            lambda: package.infer("pretrained", scan, subsample=9),
            lambda: package.infer("pretrained", scan, probe_source="file"),
            lambda: package.infer("pretrained", scan, val_fraction=0.1, validation=half),
        ]
        for call in idle:
            with pytest.raises(ContractError, match="which has none") as caught:
                call()
            assert caught.value.codes == ("config.no_effect",)
            assert "--" not in str(caught.value)

    def test_validation_patterns_give_a_patience_its_effect(self, package, scan):
        """CFG-25: indices validate as a fraction does."""
        options = {"epochs": 2, "modes": 1, "accelerator": "cpu", "early_stop_patience": 5}
        _, summary = package.reconstruct(scan, validation=np.arange(6), **options)
        assert summary["validation"]["patterns"] == 6
        assert "learning_rate" not in summary["settings"]["execution"]
        with pytest.raises(ContractError, match=r"config\.no_effect"):
            package.reconstruct(scan, **options)

    def test_several_validation_scans_all_count(self, package, scan, tmp_path):
        """TRN-5: as files or in memory; the second is read, judged and refused like the first."""
        second = simulate(N=16, n_patterns=25, step_px=2.0, photons_per_pattern=1e3, seed=3)
        write_scan(tmp_path / "second.npz", second)
        options = {"epochs": 1, "batch_size": 64, "seed": 1, **TINY}
        losses = []
        for validation in ([scan], [scan, tmp_path / "second.npz"], [tmp_path / "second.npz", scan]):
            _, summary = package.train(scan, validation=validation, **options)
            assert summary["groups"]["validation"] == (36 if len(validation) == 1 else 36 + 25)
            losses.append(summary["training"]["losses"]["val_loss"])
        assert losses[1] == pytest.approx(losses[2], rel=1e-4)
        assert losses[0] != pytest.approx(losses[1], rel=1e-2)
        small = simulate(N=12, n_patterns=16, step_px=2.0, seed=3)
        with pytest.raises(ContractError, match=r"scan\.sizes"):
            package.train(scan, validation=[scan, small], **options)
        with pytest.raises(MissingFileError, match=r"absent\.npz"):
            package.train(scan, validation=[scan, tmp_path / "absent.npz"], **options)

    def test_nphotons_reaches_the_validation_files(self, package, scan, tmp_path, monkeypatch):
        """CFG-28: all files of a run are read with it, and what is recorded is the dose that they have."""
        tasks = []
        backend = import_module(f"{package.__name__}.backend").BACKEND
        fit = type(backend).fit

        def noted(self, task, **more):
            tasks.append(task)
            return fit(self, task, **more)

        monkeypatch.setattr(type(backend), "fit", noted)
        files = []
        for name in ("train", "first", "second"):
            amplitude = np.sqrt(scan.counts())
            x, y = scan.positions_px.T
            files.append(tmp_path / f"{name}.npz")
            arrays = {"diff3d": amplitude / amplitude.max(), "xcoords": x, "ycoords": y, "probeGuess": scan.probe}
            np.savez(files[-1], **arrays, probe_kind="exact")
        options = {"measurement": "normalised-amplitude", "nphotons": 4321.0, "epochs": 1, "batch_size": 16, **TINY}
        _, summary = package.train(files[0], validation=files[1:], **options)
        (task,) = tasks
        for part in (task.groups, task.validation):
            np.testing.assert_allclose(list(part.mean_counts.values()), 4321, rtol=1e-3)
        assert set(task.validation.mean_counts) == {0, 1}
        assert summary["settings"]["data"]["nphotons"] == 4321

    def test_the_trained_files_are_kept_if_requested(self, package, scan, tmp_path):
        """``output_dir`` takes what the command would write."""
        package.train(scan, output_dir=tmp_path / "out", epochs=1, batch_size=16, **TINY)
        assert (tmp_path / "out" / "model.safetensors").stat().st_size > 0
