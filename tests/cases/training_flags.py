"""Each data, network and training flag of ``train`` does something, whichever backend trains (invariant 36)."""

from __future__ import annotations

import importlib.util
import itertools
import os
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from ptycho_data.bundle_file import read_bundle
from ptycho_data.deadline import Deadline
from ptycho_data.files import read_scan, write_scan
from ptycho_data.fitting import Attempts
from ptycho_data.fitting.mlflow_run import mlflow_files
from safetensors.numpy import load_file

SHORT = ("--epochs", "1", "--width", "2", "--iterations", "1", "--gridsize", "1")


def weights(run) -> dict[str, np.ndarray]:
    """Tensors of the model that a run wrote."""
    return load_file(run.out / "model.safetensors")


def same(first, second) -> bool:
    """Whether two runs wrote the same tensors, bit for bit."""
    left, right = weights(first), weights(second)
    return left.keys() == right.keys() and all(np.array_equal(left[name], right[name]) for name in left)


def checkpoints(run) -> list[str]:
    """Names of the checkpoints that a run left."""
    return sorted(path.name for path in run.out.glob("checkpoints/*"))


class TrainingFlags:
    """Invariant 36 for data, network and training flags: the same for both backends."""

    def test_N_other_than_the_file_is_refused(self, train):
        run = train("--N", "64")
        assert run.code == 2
        assert "32 x 32" in run.err
        assert train("--N", "32", stop_before_fit=True).source.N == 32

    def test_gridsize(self, train):
        run = train("--gridsize", "2", stop_before_fit=True)
        assert run.groups.nn_indices.shape[1] == 4

    def test_n_groups(self, train):
        assert train("--n-groups", "33", stop_before_fit=True).group_counts == {"training": 31, "validation": 2}

    def test_n_groups_defaults_to_the_number_of_patterns(self, train):
        run = train(*SHORT, small=False, stop_before_fit=True)
        assert run.group_counts == {"training": 61, "validation": 3}

    def test_oversampling(self, train):
        """64 patterns, twice each; together with a number of groups it is refused."""
        words = ("--oversampling", "2", "--gridsize", "2", *SHORT[:-2])
        run = train(*words, small=False, stop_before_fit=True)
        assert run.group_counts == {"training": 122, "validation": 6}
        assert train("--oversampling", "2").code == 2

    def test_min_and_max_distance_px(self, train, scan_file):
        """Positions of the scan as oracle; the step is 3 px."""
        words = ("--gridsize", "2", "--neighbor-count", "6")
        run = train(*words, "--min-distance-px", "3.5", "--max-distance-px", "12", stop_before_fit=True)
        members = run.groups.nn_indices
        points = read_scan(scan_file).positions_px
        distance = np.linalg.norm(points[members[:, 1:]] - points[members[:, :1]], axis=2)
        assert distance.min() >= 3.5
        assert distance.max() <= 12
        near = train(*words, stop_before_fit=True).groups.nn_indices
        assert np.linalg.norm(points[near[:, 1:]] - points[near[:, :1]], axis=2).min() < 3.5

    def test_sequential(self, train):
        """40 of 64 seeds: the first 40, or any."""
        seeds = {}
        for flag in ("--sequential", "--no-sequential"):
            seeds[flag] = train(flag, stop_before_fit=True).groups.nn_indices[:, 0]
        assert seeds["--sequential"].max() < 40
        assert seeds["--no-sequential"].max() >= 40

    def test_subsample(self, train):
        """Whether or not the groups are counted by hand."""
        run = train("--subsample", "48", stop_before_fit=True)
        assert 35 < len(np.unique(run.groups.nn_indices)) <= 48
        counted = train("--subsample", "20", *SHORT, small=False, stop_before_fit=True)
        assert counted.group_counts == {"training": 19, "validation": 1}

    def test_synthetic(self, train, scan_file):
        """Other objects than the scan's, at its positions and with its dose."""
        source = train("--synthetic", "2", stop_before_fit=True).source
        assert len(source) == 2 * 64
        own = read_scan(scan_file)
        simulated = np.asarray(source.counts(np.arange(64)))
        assert simulated.sum((1, 2)).mean() == pytest.approx(own.counts().sum((1, 2)).mean(), rel=0.1)
        assert not np.allclose(simulated, own.counts())

    def test_supervised_weight(self, train, scan_file, tmp_path):
        """Other weights, towards the true object; without one it is refused, and 0 changes nothing."""
        words = ("--synthetic", "2", "--learning-rate", "0.003", "--epochs", "4", "--passes", "1")
        free, taught = train(*words), train(*words, "--supervised-weight", "3")
        assert taught.code == 0, taught.err
        assert not same(free, taught)
        assert "supervised_error" not in free.summary["training"]["losses"]
        assert 0 < taught.summary["training"]["losses"]["supervised_error"] < 1
        assert "truth" in taught.source.path.joinpath("manifest.json").read_text()
        assert same(train("--supervised-weight", "0"), train())
        assert train("--supervised-weight", "1").code == 0  # the file holds its true object
        bare = tmp_path / "bare.npz"
        write_scan(bare, replace(read_scan(scan_file), object_truth=None, object_origin_yx_px=None))
        refused = train("--supervised-weight", "1", data=bare)
        assert refused.code == 2
        assert "--synthetic N" in refused.err
        assert not (refused.out / "model.safetensors").exists()

    def test_start_from(self, train, tmp_path):
        """A step of nothing leaves the weights of the earlier model."""
        first = train("--seed", "3")
        still = ("--seed", "4", "--learning-rate", "1e-12", "--start-from", first.out / "model.safetensors")
        assert all(
            np.allclose(tensor, weights(first)[name], atol=1e-6) for name, tensor in weights(train(*still)).items()
        )
        assert not same(train(*still[:-2]), first)
        other = train("--start-from", first.out / "model.safetensors", "--width", "4")
        assert other.code == 2
        assert "width" in other.err
        assert not other.out.exists()
        passes = train(*still, "--passes", "2")
        assert all(np.allclose(tensor, weights(first)[name], atol=1e-6) for name, tensor in weights(passes).items())
        assert passes.summary["settings"]["model"]["passes"] == 2
        missing = train("--start-from", tmp_path / "none.safetensors")
        assert missing.code == 2
        assert "none.safetensors" in missing.err
        assert not missing.out.exists()

    def test_neighbor_count(self, train):
        """With K = 3 the members of a group of 4 are the seed's three nearest; with more they spread."""
        spread = []
        for count in ("3", "12"):
            run = train("--gridsize", "2", "--neighbor-count", count, stop_before_fit=True)
            spread.append(np.abs(run.groups.coords_relative).mean())
        assert spread[1] > 1.2 * spread[0]

    def test_measurement_against_the_data_is_refused(self, train):
        run = train("--measurement", "amplitude")
        assert run.code == 2
        assert "--measurement" in run.err

    def test_nphotons_sets_the_dose_of_normalised_amplitude(self, train, scan_file, tmp_path):
        path = tmp_path / "normalised.npz"
        scan = read_scan(scan_file)
        amplitude = np.sqrt(scan.counts())
        x, y = scan.positions_px.T
        np.savez(
            path, diff3d=amplitude / amplitude.max(), xcoords=x, ycoords=y, probeGuess=scan.probe, probe_kind="exact"
        )
        words = ("--measurement", "normalised-amplitude", "--nphotons", "12345")
        run = train(*words, data=path, stop_before_fit=True)
        assert run.seen["datasets"][0].mean_counts[0] == pytest.approx(12345, rel=1e-3)

    def test_architecture(self, train):
        """The cnn learns nothing in so short a time: it is restarted, says so, and is written (CLI-28)."""
        unrolled, cnn = train("--quiet"), train("--architecture", "cnn", "--learning-rate", "1e-9", "--quiet")
        assert weights(unrolled).keys() != weights(cnn).keys()
        assert (unrolled.code, unrolled.err) == (0, "")
        assert cnn.code == 1
        assert cnn.err.count("\n") == 1
        assert "training.collapsed" in cnn.err
        training = cnn.summary["training"]
        assert (training["collapsed"], training["restarts"], training["epochs"]) == (True, 1, 2)
        assert "after epoch 1 of 1" in training["restart_reason"]
        assert unrolled.summary["training"]["restarts"] == 0

    def test_iterations(self, train):
        one, three = (train("--iterations", count, stop_before_fit=True).seen for count in ("1", "3"))
        assert three["parameters"] == 3 * one["parameters"]

    def test_passes(self, train):
        assert not same(train(), train("--passes", "2"))

    def test_width(self, train):
        two, four = (train("--width", width, stop_before_fit=True).seen for width in ("2", "4"))
        assert four["parameters"] > 2 * two["parameters"]

    def test_modes(self, train):
        run = train("--modes", "3", "--calibrate-probe", "--calibration-epochs", "1")
        assert len(run.summary["probe"]["mode_powers"]) == 3
        assert len(read_bundle(run.out / "model.safetensors").probe) == 3

    def test_batch_size(self, train):
        """38 groups in batches of 16, the default, and of 19."""
        assert train().summary["training"]["steps"] == 3
        assert train("--batch-size", "19").summary["training"]["steps"] == 2

    def test_epochs(self, train):
        assert train("--epochs", "3").summary["training"]["epochs"] == 3

    def test_max_seconds(self, train, monkeypatch):
        """By a clock that is a second later at each look: two or three in a step. Before it no time passes."""
        monkeypatch.setitem(Deadline.__init__.__kwdefaults__, "clock", lambda: 0.0)
        monkeypatch.setitem(Attempts.__init__.__kwdefaults__, "clock", partial(next, itertools.count()))
        training = train("--epochs", "1000000", "--max-seconds", "12").summary["training"]
        assert training["stopped_by"] == "max_seconds"
        assert 4 <= training["steps"] <= 6

    def test_seed(self, train):
        """Invariant 42: same seed, same bits."""
        first, again, other = train("--seed", "3"), train("--seed", "3"), train("--seed", "4")
        assert same(first, again)
        assert not same(first, other)

    def test_seed_of_the_first_weights(self, train):
        """Invariant 42: steps of nothing leave the weights as they were made, others for another seed."""
        first, other = (weights(train("--seed", seed, "--learning-rate", "1e-12")) for seed in ("3", "4"))
        name = "network.nets.0.in_conv.weight"
        assert np.abs(first[name] - other[name]).mean() > 0.1 * np.abs(first[name]).mean()

    def test_loss(self, train):
        assert not same(train("--loss", "amplitude"), train("--loss", "poisson"))

    def test_hold_out_fraction(self, train):
        """The patterns that the brief's formula names are in no group."""
        run = train("--hold-out", "0.25", "--seed", "5", stop_before_fit=True)
        held = np.random.default_rng(5).permutation(64)[:16]
        members = run.groups.nn_indices
        assert not np.isin(members, held).any()
        assert len(np.unique(members)) > 30

    def test_hold_out_indices(self, train, tmp_path):
        np.save(tmp_path / "held.npy", np.arange(10))
        run = train("--hold-out", tmp_path / "held.npy", stop_before_fit=True)
        assert run.groups.nn_indices.min() >= 10

    def test_val_fraction(self, train):
        run = train("--val-fraction", "0.25", stop_before_fit=True)
        assert run.group_counts == {"training": 30, "validation": 10}

    def test_validation_file(self, train, other_scan_file):
        run = train("--validation", other_scan_file, stop_before_fit=True)
        assert run.group_counts == {"training": 40, "validation": 64}

    def test_calibrate_probe(self, train):
        """The simulated probe is exact: kept unless calibration is requested."""
        assert train().summary["probe"]["calibrated"] is False
        run = train("--calibrate-probe", "--calibration-epochs", "2")
        assert run.summary["probe"]["calibrated"] is True
        assert run.summary["probe"]["epochs"] == len(run.summary["probe"]["losses"]) == 2
        assert not np.array_equal(weights(run)["probe"], weights(train())["probe"])

    def test_keep_probe(self, train, scan_file, tmp_path):
        """A guess is calibrated unless it is to be kept."""
        path = tmp_path / "guess.npz"
        write_scan(path, replace(read_scan(scan_file), probe_kind="guess"))
        assert train("--calibration-epochs", "1", data=path).summary["probe"]["calibrated"] is True
        assert train("--keep-probe", data=path).summary["probe"]["calibrated"] is False

    def test_a_probe_that_needs_more_modes(self, train, several_modes_file):
        """CLI-26, TRN-3b: one line names the modes, and with that many there is none. 420 steps of calibration."""
        words = ("--calibrate-probe", "--calibration-epochs", "60")
        lines = []
        for modes in ("1", "3"):
            run = train(*words, "--modes", modes, data=several_modes_file)
            assert run.code == 0, run.err
            reported = run.summary["probe"]["calibration"]
            assert (reported["patterns"], reported["judged"], reported["steps"]) == (100, 100, 420)
            lines.append([line for line in run.said.splitlines() if "try --" in line])
        assert lines[1] == []
        assert [line.split(": ")[-1] for line in lines[0]] == ["try --modes 3"]
        assert not [line for line in train(data=several_modes_file).said.splitlines() if "try --" in line]

    @pytest.mark.skipif(
        importlib.util.find_spec("mlflow") is None and not os.environ.get("CI"),
        reason="needs the extra mlflow, which nox -s integration installs",
    )
    def test_logger_mlflow(self, train):
        """TRN-8: with ``mlflow-skinny`` alone, every epoch's metrics in files; the process stays as it was."""
        import mlflow
        from mlflow.tracking import MlflowClient

        before = dict(os.environ), mlflow.get_tracking_uri()
        run = train("--logger", "mlflow", "--epochs", "3", "--quiet")
        assert (run.code, run.err) == (0, "")
        assert (dict(os.environ), mlflow.get_tracking_uri()) == before
        with mlflow_files(run.out) as uri:
            client = MlflowClient(uri)
        (experiment,) = [each for each in client.search_experiments() if each.name == "ptycho"]
        (logged,) = client.search_runs([experiment.experiment_id])
        assert logged.info.status == "FINISHED"
        losses = run.summary["training"]["losses"]
        assert {name: logged.data.metrics[name] for name in ("train_loss", "val_loss")} == pytest.approx(
            {name: losses[name] for name in ("train_loss", "val_loss")}, rel=1e-6
        )
        assert len(client.get_metric_history(logged.info.run_id, "val_loss")) == 3

    def test_logger_that_is_not_installed_is_refused(self, train, backend, monkeypatch):
        """TRN-8: one line that names the extra, before any training."""
        monkeypatch.setitem(sys.modules, "mlflow", None)  # as if it were not installed
        run = train("--logger", "mlflow")
        assert run.code == 2
        assert f"ptycho-{backend}[mlflow]" in run.err
        assert not (run.out / "model.safetensors").exists()

    def test_config_file(self, train, tmp_path):
        (tmp_path / "settings.toml").write_text("[training]\nepochs = 2\nbatch_size = 64\nval_fraction = 0.01\n")
        run = train("--config", tmp_path / "settings.toml", *SHORT[2:], small=False)
        assert run.summary["training"]["steps"] == 2
        assert run.summary["overrides_applied"]["epochs"] == {"value": 2, "source": "explicit"}

    def test_several_files_make_one_model(self, train, other_scan_file):
        run = train(other_scan_file, stop_before_fit=True)
        assert len(run.source) == 2 * 64
        assert set(run.seen["datasets"][0].mean_counts) == {0, 1}
