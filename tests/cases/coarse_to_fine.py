"""Inference from coarse to fine (NET-12, IMG-8), one behaviour a test; each backend runs ``TestCoarseToFine``."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
from ptycho_cli.backends import load_backend
from ptycho_contracts.physics import COARSE_PASSES, finest_passes
from ptycho_contracts.testing import reference_network
from ptycho_data.batches import ModuliStream
from ptycho_data.bundle_file import read_bundle, write_bundle
from ptycho_data.canvas import canvas_geometry, central_part, level_probe, scan_sites, sparse_subsets
from ptycho_data.fitting.probes import normalised_probe
from ptycho_data.simulate import simulate
from ptycho_data.stages import Picture, Watcher
from ptycho_data.workflows import CanvasTask

SMALL = {"iterations": 2, "passes": 2, "width": 2, "gridsize": 1, "accelerator": "cpu"}


def annular_probe(N, *, seed):
    """A ring of aperture .09 to .12 cycles per pixel with random aberrations: an extended, structured beam."""
    rng, q = np.random.default_rng(seed), np.fft.fftfreq(N)
    y, x = np.meshgrid(q / 0.12, q / 0.12, indexing="ij")
    phase = sum(rng.normal(0, 4) * x**i * y**j for i in range(5) for j in range(5 - i) if i + j >= 2)
    ring = (np.hypot(y, x) < 1) & (np.hypot(y, x) > 0.75)
    return np.fft.fftshift(np.fft.ifft2(ring * np.exp(1j * phase)))[None].astype(np.complex64)


def changed_bias(path, bias):
    """The model of a file with the output of its last net moved by a constant; with 0 the net adds exactly nothing."""
    content = read_bundle(path)
    weights = {
        name: np.zeros_like(value) + (bias if name.endswith("out_conv.bias") else 0) if ".out_conv." in name else value
        for name, value in content.weights.items()
    }
    write_bundle(path, replace(content, weights=weights))
    return path


class Watch(Watcher):
    """Keeps all that it hears."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, int, int]] = []
        self.losses: list[float | None] = []
        self.pictures: list[Picture | None] = []

    def __call__(self, stage, done, total, *, loss=None, picture=None):
        self.steps.append((stage, done, total))
        self.losses.append(None if loss is None else float(loss))
        self.pictures.append(None if picture is None else picture())


class CoarseToFine:
    """The same for both backends; the fixture ``backend`` is a backend's name."""

    @pytest.fixture
    def package(self, backend):
        """The module that a notebook imports."""
        return import_module(f"ptycho_{backend}")

    @pytest.fixture
    def scan(self):
        """200 patterns of 32 x 32 pixels, 1e5 photons each, under an aberrated probe."""
        probe = annular_probe(32, seed=5)
        return simulate(
            object_kind="random_field", n_patterns=200, step_px=4.0, photons_per_pattern=1e5, seed=3, probe=probe
        )

    @pytest.fixture
    def model(self, package, scan):
        """A network that was hardly trained: what is inferred is the physics."""
        return package.train(scan, epochs=1, n_groups=20, batch_size=20, seed=1, learning_rate=1e-6, **SMALL)[0]

    @pytest.mark.parametrize("side", [12, 7])
    def test_passes_at_a_level_conformance(self, backend, scan, side):
        """PHY-34 and NET-12 beside NumPy in complex128, with bad pixels, for even and odd sides."""
        some, mean = np.arange(60), 9e4
        bad = np.random.default_rng(2).random((32, 32)) < 0.05
        positions = scan.positions_px[some] * (side / 32)
        probe, frame = level_probe(normalised_probe(scan.probe, 1.0), side), canvas_geometry(positions, side)
        sites = scan_sites(positions, frame, side)
        subsets = sparse_subsets(probe, sites)
        assert len(subsets) > 1
        rng = np.random.default_rng(4)
        start = (1 + 0.1 * rng.normal(size=frame.shape) + 0.1j * rng.normal(size=frame.shape)).astype(np.complex64)
        schedule = replace(COARSE_PASSES, passes=3)
        with ModuliStream(scan, [some[subset] for subset in subsets], passes=3, mean_counts=mean, side=side) as moduli:
            task = CanvasTask(moduli, sites, subsets, bad_pixels=central_part(bad, side), start=start)
            computed = load_backend(backend).BACKEND.passes_on_canvas(probe, task, schedule)
        expected = reference_network.passes_on_canvas(
            start,
            np.sqrt(central_part(scan.counts(some).astype(np.float64), side) / mean),
            probe,
            positions,
            subsets,
            origin_yx_px=frame.origin_yx_px,
            dampings=[0.5, 5**0.5, 10.0],
            momentum=0.9,
            good=~central_part(bad, side),
        )
        np.testing.assert_allclose(computed, expected, atol=2e-4 * np.abs(expected).max())

    def test_who_watches_sees_the_object_of_the_passes(self, backend, scan):
        """CLI-51: what the steps so far have made of the start, and the light on it."""
        some, mean = np.arange(60), 9e4
        frame, probe = canvas_geometry(scan.positions_px[some], 32), normalised_probe(scan.probe, 1.0)
        sites = scan_sites(scan.positions_px[some], frame, 32)
        subsets = sparse_subsets(probe, sites)
        watch = Watch()
        options = {"passes": 3, "mean_counts": mean, "progress": watch}
        light = np.ones(frame.shape, np.float32)
        with ModuliStream(scan, [some[subset] for subset in subsets], **options) as moduli:
            task = CanvasTask(moduli, sites, subsets, light=lambda: light)
            computed = load_backend(backend).BACKEND.passes_on_canvas(probe, task, replace(COARSE_PASSES, passes=3))
        assert len(watch.pictures) == 3 * len(subsets)
        np.testing.assert_array_equal(watch.pictures[0].object, np.ones(frame.shape))
        errors = [np.abs(watch.pictures[number * len(subsets)].object - computed).mean() for number in range(3)]
        assert errors[2] < errors[1] < errors[0]
        assert all(seen.weight is light for seen in watch.pictures)

    def test_who_watches_a_reconstruction_hears_its_stages(self, package, scan):
        """CLI-24: each by a name of its own; losses and pictures of the fits, pictures of the passes."""
        watch = Watch()
        package.reconstruct(scan, epochs=2, modes=1, levels=2, accelerator="cpu", progress=watch)
        counted = list(dict.fromkeys(stage for stage, _, total in watch.steps if total))
        assert counted[-2:] == ["reconstruction", "residuals"]
        assert "coarse levels" in counted
        assert "inference" not in counted
        for (stage, _, total), loss, seen in zip(watch.steps, watch.losses, watch.pictures, strict=True):
            fits = bool(total) and stage not in ("coarse levels", "residuals")
            assert (loss is not None) == fits
            assert (seen is not None) == (fits or (bool(total) and stage == "coarse levels"))
            assert seen is None or seen.weight.max() > 0

    def test_last_round_conformance(self, package, backend, scan, model):
        """NET-12: from a given object only the last round is left; a net that adds nothing shows its passes."""
        some, mean = np.arange(60), 9e4
        frame = canvas_geometry(scan.positions_px[some], 32)
        sites = scan_sites(scan.positions_px[some], frame, 32)
        probe = model.model.probe_array()
        subsets = sparse_subsets(probe, sites)
        start = np.full(frame.shape, 0.9 + 0.2j, np.complex64)
        with ModuliStream(scan, [some[subset] for subset in subsets], passes=2, mean_counts=mean) as moduli:
            task = CanvasTask(moduli, sites, subsets, start=start)
            without, corrected = load_backend(backend).BACKEND.infer_canvas(model.model, task)
        expected = reference_network.passes_on_canvas(
            start,
            np.sqrt(scan.counts(some).astype(np.float64) / mean),
            probe,
            scan.positions_px[some],
            subsets,
            origin_yx_px=frame.origin_yx_px,
            dampings=[2.0, 10.0],
            momentum=0.7,
        )
        assert finest_passes(2).dampings() == pytest.approx([2.0, 10.0])
        np.testing.assert_allclose(without, expected, atol=2e-4)
        np.testing.assert_allclose(corrected, expected, atol=2e-3)

    @pytest.mark.parametrize("bias", [0.0, 0.5])
    def test_a_net_that_worsens_the_fit_is_left_out(self, package, scan, model, bias, tmp_path):
        """NET-12: the correction of a net is kept only if it explains the patterns as well; the summary tells it."""
        package.save(tmp_path / "model.safetensors", model)
        other = changed_bias(tmp_path / "model.safetensors", bias)
        _, summary = package.infer(other, scan, probe_source="file", accelerator="cpu")
        assert summary["net_corrects"] is (bias == 0.0)
        assert summary["residual"]["used"] < 0.01
        assert package.infer(other, scan, levels=1, accelerator="cpu")[1]["net_corrects"] is True

    def test_low_frequencies_are_recovered(self, package, scan, model):
        """What it is for: the phase of an object with low frequencies, at no more steps over full patterns."""
        errors = {}
        for levels in (1, None):
            image, summary = package.infer(model, scan, levels=levels, probe_source="file", accelerator="cpu")
            errors[levels] = package.evaluate(image, scan).report["figures"]["phase_rmse_rad"]
            assert summary["levels_px"] == ([32] if levels == 1 else [16, 32])
        assert errors[None] < 0.6 * errors[1]

    def test_little_light_has_the_full_level_only(self, package, scan, model):
        """PHY-35: where passes would fit the noise."""
        dim = simulate(n_patterns=60, step_px=4.0, photons_per_pattern=300, seed=1, probe=scan.probe)
        assert package.infer(model, dim, accelerator="cpu")[1]["levels_px"] == [32]

    def test_bad_pixels_are_not_read(self, package, scan, model):
        """PHY-34: what stands in a bad pixel changes no bit, at any level."""
        bad = np.zeros((32, 32), bool)
        bad[13:15, 17] = True
        images = []
        for value in (0, 60000):
            counts = scan.measurements.copy()
            counts[:, bad] = value
            spoilt = replace(scan, measurements=counts, bad_pixels=bad)
            images.append(package.infer(model, spoilt, levels=2, probe_source="file", accelerator="cpu")[0].object)
        np.testing.assert_array_equal(*images)

    def test_progress_is_that_of_all_levels(self, package, scan, model):
        """One count from the first to the last step."""
        seen = []
        package.infer(
            model, scan, levels=2, accelerator="cpu", progress=lambda stage, *step: seen.append((stage, *step))
        )
        steps = [(done, total) for stage, done, total in seen if stage == "inference"]
        assert steps == [(number, len(steps)) for number in range(1, len(steps) + 1)]
