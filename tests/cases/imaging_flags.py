"""Each flag of ``infer`` and ``reconstruct`` does something, whichever backend computes (invariant 36)."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from ptycho_cli.main import main
from ptycho_data.deadline import Deadline
from ptycho_data.files import read_reconstruction, read_scan, write_scan

OUTPUTS = {"object.npz", "amplitude.png", "phase.png", "coverage.png", "probe.png", "report.html", "summary.json"}
"""What a run without epochs writes (CLI-11)."""
TRAINING = ("--epochs", "1", "--width", "4", "--iterations", "2", "--quiet")


def image(run):
    """The reconstruction that a run wrote."""
    assert run.code == 0, run.err
    return read_reconstruction(run.out / "object.npz")


def same(first, second) -> bool:
    """Whether two runs gave the same object, bit for bit."""
    return np.array_equal(image(first).object, image(second).object)


class Images:
    """Runs the commands that image."""

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls, backend, scan_file, tmp_path_factory) -> Path:
        """A small model, trained with a calibrated probe that differs from the file's."""
        out = tmp_path_factory.mktemp("model")
        words = ["--calibrate-probe", "--calibration-epochs", "2"]
        assert main(["train", str(scan_file), "--output-dir", str(out), *TRAINING, *words, "--backend", backend]) == 0
        return out / "model.safetensors"

    @pytest.fixture
    def infer(self, command, model, other_scan_file, plain):
        """Image the scan that the model never saw."""

        def run(*words, data=None, bundle=None):
            if words or data or bundle:
                return command("infer", bundle or model, data or other_scan_file, *words)
            if "infer" not in plain:
                plain["infer"] = command("infer", model, other_scan_file)
            return plain["infer"]

        return run

    @pytest.fixture
    def reconstruct(self, command, other_scan_file, plain):
        """A joint reconstruction of one epoch and one mode, unless the options say otherwise."""

        def run(*words, data=None):
            defaults = [("--epochs", "1"), ("--modes", "1")]
            given = [word for flag, value in defaults if flag not in words for word in (flag, value)]
            if words or data:
                return command("reconstruct", data or other_scan_file, *given, *words)
            if "reconstruct" not in plain:
                plain["reconstruct"] = command("reconstruct", other_scan_file, *given)
            return plain["reconstruct"]

        return run

    @pytest.fixture
    def normalised_file(self, other_scan_file, tmp_path) -> Path:
        """The scan as amplitudes whose largest is 1."""
        path = tmp_path / "normalised.npz"
        scan = read_scan(other_scan_file)
        amplitude = np.sqrt(scan.counts())
        x, y = scan.positions_px.T
        arrays = {"diff3d": amplitude / amplitude.max(), "xcoords": x, "ycoords": y, "probeGuess": scan.probe}
        np.savez(path, **arrays, probe_kind="exact")
        return path


class JointFlags(Images):
    """Options of every joint reconstruction; ``jointly`` runs one of 30 epochs."""

    @pytest.fixture(scope="class")
    @classmethod
    def faint_file(cls, tmp_path_factory) -> Path:
        """64 patterns of 50 photons each: soon fitted too well."""
        path = tmp_path_factory.mktemp("faint") / "scan.npz"
        words = ["--N", "32", "--patterns", "64", "--step-px", "3", "--photons", "50", "--seed", "2", "--quiet"]
        assert main(["simulate", str(path), *words]) == 0
        return path

    def test_val_fraction(self, jointly, faint_file):
        """16 patterns validate, and the result is the epoch of their lowest loss, not the last."""
        blind, validated = jointly(data=faint_file), jointly("--val-fraction", "0.25", data=faint_file)
        result = validated.summary["validation"]
        assert blind.summary["validation"] is None
        assert (result["patterns"], len(result["losses"]), len(validated.summary["losses"])) == (16, 30, 30)
        assert result["best_epoch"] == 1 + int(np.argmin(result["losses"])) < 30
        assert validated.summary["stopped_by"] == blind.summary["stopped_by"] == "epochs"
        assert validated.summary["patterns"] == blind.summary["patterns"] == {"used": 64, "held_out": 0}
        assert not same(blind, validated)

    def test_early_stop_patience(self, jointly, faint_file):
        """The fit stops so many epochs after its best one, with the same image as without."""
        words = ("--val-fraction", "0.25", "--prior", "none", "--early-stop-patience")
        whole = jointly(*words, "30", data=faint_file)
        stopped = jointly(*words, "6", data=faint_file)
        assert stopped.summary["stopped_by"] == "early stopping"
        assert len(stopped.summary["losses"]) == stopped.summary["validation"]["best_epoch"] + 6 < 30
        assert same(whole, stopped)
        assert jointly("--early-stop-patience", "3").code == 2

    def test_prior(self, jointly, faint_file):
        """PRI-12: each leads to another image, and the summary names it; the network is the default."""
        runs = {kind: jointly("--prior", kind, data=faint_file) for kind in ("network", "tv", "none")}
        assert {kind: run.summary["prior"]["kind"] for kind, run in runs.items()} == {kind: kind for kind in runs}
        assert not same(runs["network"], runs["tv"])
        assert not same(runs["tv"], runs["none"])
        assert same(runs["network"], jointly(data=faint_file))
        refused = jointly("--prior", "wavelets")
        assert refused.code == 2
        assert "--prior" in refused.err

    def test_prior_weight(self, jointly, faint_file):
        """PRI-9: a factor of what the noise implies, or that itself."""
        default, one, ten = (jointly("--prior-weight", weight, data=faint_file) for weight in ("auto", "1", "10"))
        assert same(default, one)
        assert not same(default, ten)
        for words in (("--prior-weight", "0"), ("--prior-weight", "much"), ("--prior-weight", "2", "--prior", "none")):
            refused = jointly(*words)
            assert refused.code == 2
            assert "prior_weight" in refused.err or "--prior-weight" in refused.err

    def test_enable_checkpointing(self, jointly, monkeypatch):
        """Checkpoints are written, change no bit, and are gone with the results in place; or are not written."""
        monkeypatch.setattr("ptycho_data.fitting.checkpoints.SPACING_SECONDS", 0.0)
        kept, none = jointly("--enable-checkpointing"), jointly("--disable-checkpointing")
        assert kept.summary["checkpoints_written"] > 0 == none.summary["checkpoints_written"]
        assert same(kept, none)
        assert not (kept.out / "checkpoints").exists()


class InferenceFlags(JointFlags):
    """Invariant 36 for ``infer``: the same for both backends."""

    @pytest.fixture
    def jointly(self, infer):
        return lambda *words, data=None: infer("--refine", "30", *words, data=data)

    def test_output_files(self, infer):
        run = infer()
        assert {path.name for path in run.out.iterdir()} == OUTPUTS
        refined = infer("--refine", "2")
        assert {path.name for path in refined.out.iterdir()} == OUTPUTS | {"losses.png"}
        result = image(run)
        np.testing.assert_allclose(np.sum(np.abs(result.probe) ** 2), run.summary["mean_counts"], rtol=1e-4)
        assert result.weight.max() > 0

    def test_accelerator(self, infer):
        assert infer("--accelerator", "cpu").summary["device"] == "cpu"

    def test_accelerator_that_is_not_there_is_refused(self, infer, absent_accelerator):
        run = infer("--accelerator", absent_accelerator)
        assert run.code == 2
        assert "execution.accelerator" in run.err
        assert not run.out.exists()

    def test_inference_batch_size(self, infer):
        """64 patterns one by one: a multiple of 64 subsets, and many more than by default."""
        few, many = (
            int(re.search(r"inference: [\d,]+/([\d,]+) steps", infer(*words).err)[1].replace(",", ""))
            for words in ((), ("--inference-batch-size", "1"))
        )
        assert many % 64 == 0
        assert many > 2 * few

    def test_hold_out_fraction(self, infer):
        run = infer("--hold-out", "0.25", "--seed", "5")
        assert run.summary["patterns"] == {"used": 48, "held_out": 16}
        assert run.summary["residual"]["held_out"] > 0
        assert image(run).weight.sum() == pytest.approx(0.75 * image(infer()).weight.sum(), rel=0.01)

    def test_hold_out_patterns_do_not_matter(self, infer, other_scan_file, tmp_path):
        """Invariant 10: other counts in the patterns held out, same image."""
        np.save(tmp_path / "held.npy", np.arange(8))
        scan = read_scan(other_scan_file)
        counts = np.array(scan.measurements)
        counts[:8] = counts[8:16][:, ::-1]
        write_scan(tmp_path / "altered.npz", replace(scan, measurements=counts))
        words = ("--hold-out", tmp_path / "held.npy")
        assert same(infer(*words), infer(*words, data=tmp_path / "altered.npz"))

    def test_seed(self, infer):
        """Invariant 42: it draws the patterns held out."""
        words = ("--hold-out", "0.5", "--seed")
        first, again, other = infer(*words, "1"), infer(*words, "1"), infer(*words, "2")
        assert same(first, again)
        assert not same(first, other)

    def test_refine(self, infer):
        run = infer("--refine", "3")
        assert run.summary["residual"]["used"] < run.summary["network"]["residual"]["used"]
        assert "refinement" in run.summary["seconds"]
        assert "refinement" not in infer().summary["seconds"]

    def test_correct_positions(self, infer):
        """Positions move only if requested, and only with a refinement."""
        kept, moved = infer("--refine", "6"), infer("--refine", "6", "--correct-positions")
        shift = image(moved).positions_px - image(kept).positions_px
        assert kept.summary["position_correction_rms_px"] == 0
        assert 0 < moved.summary["position_correction_rms_px"] == pytest.approx(np.sqrt((shift**2).sum(1).mean()))
        assert infer("--correct-positions").code == 2

    def test_fit_background(self, infer):
        """A background takes photons; without the flag it takes none."""
        fitted, none = infer("--refine", "3", "--fit-background"), infer("--refine", "3", "--no-fit-background")
        assert fitted.summary["background_counts_per_pattern"] > 0
        assert none.summary["background_counts_per_pattern"] == 0
        assert not same(fitted, none)
        assert infer("--fit-background").code == 2

    def test_assembly(self, infer):
        canvas, groups = infer("--assembly", "canvas"), infer("--assembly", "groups")
        assert (canvas.summary["assembly"], groups.summary["assembly"]) == ("canvas", "groups")
        assert not same(canvas, groups)

    def test_levels(self, infer):
        """IMG-8: their sides are told, and they change the object; groups have none."""
        full, two = infer("--levels", "1"), infer("--levels", "2")
        N = full.summary["levels_px"][0]
        assert (full.summary["levels_px"], two.summary["levels_px"]) == ([N], [N // 2, N])
        assert not same(full, two)
        refused = infer("--levels", "2", "--assembly", "groups")
        assert refused.code == 2
        assert "--levels" in refused.err

    def test_assembly_that_the_network_cannot_do_is_refused(self, infer, command, scan_file):
        # Steps of nothing: its training collapses.
        words = ("--architecture", "cnn", "--epochs", "1", "--width", "4", "--learning-rate", "1e-9", "--quiet")
        trained = command("train", scan_file, *words)
        run = infer("--assembly", "canvas", bundle=trained.out / "model.safetensors")
        assert run.code == 2
        assert "--assembly groups" in run.err
        assert trained.code == 1
        reported = infer("--assembly", "groups", "--quiet", bundle=trained.out / "model.safetensors")
        assert reported.code == 0
        assert "its training collapsed" in reported.err
        assert reported.summary["training_collapsed"] is True

    def test_probe_source(self, infer, other_scan_file):
        given = read_scan(other_scan_file).probe
        bundle, file = infer("--probe-source", "bundle"), infer("--probe-source", "file")
        np.testing.assert_allclose(image(file).probe, given, rtol=1e-3, atol=1e-4 * np.abs(given).max())
        assert not np.allclose(image(bundle).probe, given, rtol=1e-2, atol=1e-2 * np.abs(given).max())

    def test_probe_source_of_any_scale(self, infer, other_scan_file, tmp_path):
        """Invariant 2: a file's probe of four times the amplitude is the same probe."""
        scan = read_scan(other_scan_file)
        write_scan(tmp_path / "strong.npz", replace(scan, probe=4 * scan.probe))
        strong = infer("--probe-source", "file", data=tmp_path / "strong.npz")
        assert same(infer("--probe-source", "file"), strong)

    def test_measurement_against_the_data_is_refused(self, infer):
        run = infer("--measurement", "amplitude")
        assert run.code == 2
        assert "--measurement" in run.err

    def test_nphotons_sets_the_dose_of_normalised_amplitude(self, infer, normalised_file):
        words = ("--measurement", "normalised-amplitude", "--nphotons")
        run = infer(*words, "12345", data=normalised_file)
        assert run.summary["mean_counts"] == pytest.approx(12345, rel=1e-3)

    def test_nphotons_does_not_change_the_contrast(self, infer, normalised_file):
        """Invariant 1: the dose changes the scale of the probe, never the object."""
        words = ("--measurement", "normalised-amplitude", "--nphotons")
        low, high = (image(infer(*words, dose, data=normalised_file)).object for dose in ("1e4", "1e6"))
        np.testing.assert_allclose(low, high, atol=1e-4)

    def test_quiet(self, infer):
        assert "inference: " in infer().err
        assert infer("--quiet").err == ""

    def test_config_file(self, infer, tmp_path):
        (tmp_path / "settings.toml").write_text("[inference]\nassembly = 'groups'\n")
        assert infer("--config", tmp_path / "settings.toml").summary["assembly"] == "groups"

    def test_several_scans(self, infer, backend, model, other_scan_file, scan_file, tmp_path):
        """CLI-52: each image is bit for bit that of a run of its own; a file that is no scan keeps nobody from it."""
        junk = tmp_path / "junk.npz"
        junk.write_bytes(b"no scan")
        out = tmp_path / "images"
        files = [str(path) for path in (scan_file, junk, other_scan_file)]
        assert main(["infer", str(model), *files, "--output-dir", str(out), "--backend", backend, "--quiet"]) == 1
        alone = image(infer())
        several = read_reconstruction(out / other_scan_file.stem / "object.npz")
        np.testing.assert_array_equal(several.object, alone.object)
        assert sorted(path.name for path in out.iterdir()) == sorted([scan_file.stem, other_scan_file.stem])

    def test_broken_model_is_exit_2(self, infer, model, tmp_path):
        """Invariant 44."""
        (tmp_path / "cut.safetensors").write_bytes(model.read_bytes()[:-100])
        run = infer(bundle=tmp_path / "cut.safetensors")
        assert run.code == 2
        assert run.err.count("\n") == 1
        assert not run.out.exists()

    def test_scan_of_another_size_is_refused(self, infer, tmp_path):
        words = ["--N", "16", "--patterns", "16", "--step-px", "2", "--quiet"]
        assert main(["simulate", str(tmp_path / "small.npz"), *words]) == 0
        run = infer(data=tmp_path / "small.npz")
        assert run.code == 2
        assert "16 x 16" in run.err

    def test_bundles_and_results_can_be_inspected(self, infer, model, capfd):
        run = infer()
        for path, kind in ((model, "bundle"), (run.out / "object.npz", "reconstruction")):
            capfd.readouterr()
            assert main(["inspect", str(path), "--json"]) == 0
            assert json.loads(capfd.readouterr().out)["kind"] == kind


class ReconstructFlags(JointFlags):
    """Invariant 36 for ``reconstruct``: the same for both backends."""

    @pytest.fixture
    def jointly(self, reconstruct):
        return lambda *words, data=None: reconstruct("--epochs", "30", *words, data=data)

    def test_output_files(self, reconstruct):
        run = reconstruct()
        assert {path.name for path in run.out.iterdir()} == OUTPUTS | {"losses.png"}

    def test_val_fraction_lights_what_is_fitted(self, reconstruct):
        """PHY-30: each pattern's light is the probe's energy, which is the mean counts (PHY-10); 16 of 64 give none."""
        run = reconstruct("--val-fraction", "0.25")
        assert image(run).weight.sum(dtype=np.float64) == pytest.approx(48 * run.summary["mean_counts"], rel=1e-3)

    def test_levels(self, reconstruct):
        """PHY-36: their sides are told, and they change the object."""
        full, two = reconstruct("--levels", "1"), reconstruct("--levels", "2")
        assert (full.summary["levels_px"], two.summary["levels_px"]) == ([32], [16, 32])
        assert not same(full, two)

    def test_modes(self, reconstruct):
        assert image(reconstruct("--modes", "2")).probe.shape[0] == 2

    def test_epochs(self, reconstruct):
        run = reconstruct("--epochs", "3")
        assert run.summary["epochs"] == 3
        assert run.summary["residual"]["used"] < reconstruct("--epochs", "1").summary["residual"]["used"]

    def test_max_seconds(self, reconstruct, monkeypatch):
        """By a clock that is a second later at each look: at the beginning, and before each of an epoch's 4 steps.

        Of 14 seconds the fit has 8.9: the rest is for the residual and the pictures (TIME-2). Before it no time passes.
        """
        monkeypatch.setitem(Deadline.__init__.__kwdefaults__, "clock", lambda: 0.0)
        clock = SimpleNamespace(monotonic=partial(next, itertools.count()))
        monkeypatch.setattr("ptycho_data.fitting.loop.time", clock)
        summary = reconstruct("--epochs", "100000", "--max-seconds", "14", "--disable-checkpointing").summary
        assert (summary["stopped_by"], summary["epochs"]) == ("max_seconds", 2)

    def test_batch_size(self, reconstruct):
        assert not same(reconstruct("--batch-size", "8"), reconstruct("--batch-size", "32"))

    def test_object_learning_rate(self, reconstruct):
        """A step of nothing leaves empty space, where there are no coarse levels to begin with."""
        full = ("--levels", "1")
        still, moved = (image(reconstruct("--object-learning-rate", rate, *full)).object for rate in ("1e-9", "0.05"))
        assert np.ptp(np.abs(still)) < 1e-5
        assert np.ptp(np.abs(moved)) > 0.05

    def test_probe_learning_rate(self, reconstruct):
        assert reconstruct("--probe-learning-rate", "0").summary["probe"]["overlap_with_file"] == pytest.approx(
            1, abs=1e-5
        )
        moved = reconstruct("--probe-learning-rate", "0.05", "--levels", "1").summary["probe"]["overlap_with_file"]
        assert moved < 0.999

    def test_correct_positions(self, reconstruct, other_scan_file, tmp_path):
        """Positions disturbed by 1 px rms along each axis come nearer to the truth; without the flag they stay."""
        scan = read_scan(other_scan_file)
        error = np.random.default_rng(0).normal(0, 1, scan.positions_px.shape)
        path = tmp_path / "disturbed.npz"
        disturbed = scan.positions_px + error
        write_scan(path, replace(scan, positions_px=disturbed, object_truth=None, object_origin_yx_px=None))

        def off(run):
            left = image(run).positions_px - scan.positions_px
            return np.sqrt(((left - left.mean(0)) ** 2).sum(1).mean())

        words = ("--epochs", "40", "--probe-learning-rate", "0")
        np.testing.assert_array_equal(image(reconstruct(*words[:2], data=path)).positions_px, disturbed)
        assert off(reconstruct(*words, "--correct-positions", data=path)) < 0.7 * off(reconstruct(*words, data=path))

    def test_fit_background(self, command, reconstruct, tmp_path):
        """20 photons per pixel of background are fitted, and explained."""
        words = ["--N", "32", "--patterns", "64", "--step-px", "3", "--background", "20", "--quiet"]
        assert main(["simulate", str(tmp_path / "grey.npz"), *words]) == 0
        options = ("--epochs", "15", "--probe-learning-rate", "0")
        fitted, none = (
            reconstruct(*options, *flag, data=tmp_path / "grey.npz").summary for flag in (("--fit-background",), ())
        )
        assert fitted["background_counts_per_pattern"] == pytest.approx(20 * 32**2, rel=0.3)
        assert none["background_counts_per_pattern"] == 0
        assert fitted["residual"]["used"] < none["residual"]["used"]

    def test_loss(self, reconstruct):
        assert not same(reconstruct("--loss", "amplitude"), reconstruct("--loss", "poisson"))

    def test_seed(self, reconstruct):
        first, again, other = (reconstruct("--seed", seed) for seed in ("1", "1", "2"))
        assert same(first, again)
        assert not same(first, other)

    def test_hold_out(self, reconstruct):
        run = reconstruct("--hold-out", "0.25")
        assert run.summary["patterns"] == {"used": 48, "held_out": 16}
        assert run.summary["residual"]["held_out"] > 0

    def test_accelerator(self, reconstruct, absent_accelerator):
        assert reconstruct("--accelerator", "cpu").summary["device"] == "cpu"
        assert reconstruct("--accelerator", absent_accelerator).code == 2

    def test_measurement_and_nphotons(self, reconstruct, normalised_file):
        assert reconstruct("--measurement", "amplitude").code == 2
        run = reconstruct("--measurement", "normalised-amplitude", "--nphotons", "12345", data=normalised_file)
        assert run.summary["mean_counts"] == pytest.approx(12345, rel=1e-3)

    def test_quiet(self, reconstruct):
        assert "reconstruction: " in reconstruct("--progress").err
        assert reconstruct("--quiet").err == ""


class EvaluateFlags(Images):
    """CLI-16 to CLI-19 with a real joint reconstruction."""

    def test_without_truth(self, command, other_scan_file):
        words = ("--epochs", "6", "--modes", "1", "--hold-out", "0.25")
        run = command("evaluate", "--scan", other_scan_file, *words)
        assert run.code == 0, run.err
        report = json.loads((run.out / "evaluation.json").read_text())
        assert [half["patterns"] for half in report["halves"]] == [24, 24]
        for half in report["halves"]:
            assert half["residual"]["held_out"] > half["residual"]["used"] > 0
        assert 0 < report["frc_before"]["half_bit"] <= 1
        assert report["frc_before"]["epochs"] == 3
        assert report["residual_over_floor"]["used"] == pytest.approx(
            report["residual"]["used"] / report["poisson_floor"]["used"]
        )
        codes = [entry["code"] for entry in report["advice"]]
        assert [code.split(".")[0] for code in codes if "." in code] == ["residual", "frc"]
        assert "half b, early: reconstruction: " in run.err
        adds = report["what_the_prior_adds"]
        assert adds["kind"] == "network"
        assert 0 < adds["difference"] < 1
        assert adds["data_alone_half_bit"] == report["frc"]["half_bit"]
        assert adds["residual"]["without"] == report["residual"]
        assert adds["residual"]["with"]["used"] != adds["residual"]["without"]["used"]
        with Image.open(run.out / "prior.png") as picture:
            assert picture.size == (1560, 960)

    def test_beside_the_truth_more_epochs_score_better(self, command, reconstruct, other_scan_file):
        scores = []
        for epochs in ("1", "12"):
            made = reconstruct("--epochs", epochs, "--levels", "1", "--prior", "none")
            run = command("evaluate", made.out / "object.npz", "--truth", other_scan_file)
            scores.append(json.loads((run.out / "evaluation.json").read_text())["figures"]["complex_correlation"])
        assert scores[0] + 0.1 < scores[1]

    def test_a_scan_without_probe(self, command, other_scan_file, tmp_path):
        """Both halves start from the probe estimated with all patterns, so that they can agree."""
        bare = replace(read_scan(other_scan_file), probe=None, object_truth=None, object_origin_yx_px=None)
        write_scan(tmp_path / "bare.npz", bare)
        run = command("evaluate", "--scan", tmp_path / "bare.npz", "--epochs", "1", "--modes", "1")
        assert run.code == 0, run.err
        assert run.err.count("probe search: 17/17") == 1
