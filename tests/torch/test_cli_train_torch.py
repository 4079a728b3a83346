"""Every flag of ``train`` does something, observed where it is consumed (invariant 36); real runs, nothing mocked."""

from __future__ import annotations

import csv
import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from ptycho_cli.inspection import bundle_header
from ptycho_cli.main import main
from ptycho_cli.options import TRAIN_OPTIONS
from ptycho_data.files import read_scan, write_scan
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


class TestExecutionConfigCLI:
    """Invariant 36 for the execution flags."""

    def test_accelerator(self, train):
        run = train("--accelerator", "cpu")
        assert run.summary["device"] == "cpu"
        assert run.trainer.strategy.root_device.type == "cpu"

    def test_accelerator_that_is_not_there_is_refused(self, train):
        absent = "mps" if not torch.backends.mps.is_available() else "cuda"
        run = train("--accelerator", absent)
        assert run.code == 2
        assert "execution.accelerator" in run.err
        assert run.trainers == []

    def test_accelerator_auto_says_which_device_it_took_and_warns_of_nothing(self, train):
        run = train("--quiet")
        assert run.code == 0
        assert run.summary["device"].split(":")[0] in ("cpu", "cuda", "mps")
        assert run.err == ""

    def test_devices(self, train):
        """Two processes share each step: the trainer's world has two members."""
        run = train("--devices", "2", "--accelerator", "cpu", stop_before_fit=True)
        assert run.trainer.num_devices == 2
        assert run.trainer.world_size == 2

    def test_num_nodes(self, train):
        run = train("--num-nodes", "3", "--accelerator", "cpu", stop_before_fit=True)
        assert run.trainer.num_nodes == 3
        assert run.trainer.world_size == 3

    def test_strategy(self, train):
        run = train("--strategy", "ddp_spawn", "--accelerator", "cpu", "--devices", "2", stop_before_fit=True)
        assert run.trainer.strategy.launcher._start_method == "spawn"
        other = train("--strategy", "ddp", "--accelerator", "cpu", "--devices", "2", stop_before_fit=True)
        assert "Subprocess" in type(other.trainer.strategy.launcher).__name__

    def test_deterministic(self, train):
        assert train("--deterministic").seen["deterministic"] is True
        assert train("--no-deterministic").seen["deterministic"] is False
        assert not torch.are_deterministic_algorithms_enabled()

    @pytest.mark.parametrize(
        ("precision", "dtype"), [("32-true", torch.float32), ("64-true", torch.float64), ("bf16-mixed", torch.float32)]
    )
    def test_precision(self, train, precision, dtype):
        run = train("--precision", precision, "--accelerator", "cpu")
        assert run.code == 0, run.err
        assert run.seen["dtypes"] == {dtype}
        assert run.trainer.precision == precision

    def test_precision_changes_the_weights(self, train):
        assert not same(train("--precision", "32-true"), train("--precision", "bf16-mixed"))

    def test_gradient_clip_val(self, train):
        free, clipped = train(), train("--gradient-clip-val", "1e-6")
        assert free.seen["gradient_norm"] > 2e-6
        assert clipped.seen["gradient_norm"] <= 1.01e-6

    def test_accumulate_grad_batches(self, train):
        """38 groups in batches of 4: 10 batches, 5 steps of two."""
        assert train("--batch-size", "4").summary["training"]["steps"] == 10
        assert train("--batch-size", "4", "--accumulate-grad-batches", "2").summary["training"]["steps"] == 5

    def test_num_workers(self, train):
        """Invariant 42: workers load, and change nothing."""
        alone, helped = train(), train("--num-workers", "1")
        assert alone.trainer.train_dataloader.num_workers == 0
        assert helped.trainer.train_dataloader.num_workers == 1
        assert same(alone, helped)

    def test_prefetch_factor(self, train):
        run = train("--num-workers", "1", "--prefetch-factor", "3")
        assert run.trainer.train_dataloader.prefetch_factor == 3

    def test_learning_rate(self, train):
        run = train("--learning-rate", "0.0123", "--scheduler", "constant")
        assert [group["lr"] for group in run.trainer.optimizers[0].param_groups] == [0.0123]

    @pytest.mark.parametrize(
        ("scheduler", "low", "high"), [("constant", 1.0, 1.0), ("cosine", 0.015, 0.03), ("exponential", 0.015, 0.03)]
    )
    def test_scheduler(self, train, scheduler, low, high):
        """The rate at the end beside that at the start."""
        run = train("--scheduler", scheduler, "--learning-rate", "1", "--epochs", "2", "--batch-size", "2")
        (rate,) = [group["lr"] for group in run.trainer.optimizers[0].param_groups]
        assert low <= rate <= high

    def test_scheduler_plateau(self, train):
        run = train("--scheduler", "plateau")
        (config,) = run.trainer.lr_scheduler_configs
        assert isinstance(config.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)

    def test_quiet(self, train):
        assert "training: " in train().err
        assert "training: " in train("--progress").err
        assert train("--quiet").err == ""

    def test_enable_checkpointing(self, train):
        assert len(checkpoints(train("--enable-checkpointing"))) == 1
        off = train("--disable-checkpointing")
        assert checkpoints(off) == []
        assert (off.out / "model.safetensors").is_file()

    @pytest.mark.parametrize(("kept", "count"), [("0", 0), ("2", 2), ("-1", 3)])
    def test_checkpoint_save_top_k(self, train, kept, count):
        assert len(checkpoints(train("--epochs", "3", "--checkpoint-save-top-k", kept))) == count

    @pytest.mark.parametrize("metric", ["val_loss", "train_loss"])
    def test_checkpoint_monitor(self, train, metric):
        (name,) = checkpoints(train("--checkpoint-monitor", metric))
        assert metric in name

    @pytest.mark.parametrize(("mode", "best"), [("min", min), ("max", max)])
    def test_checkpoint_mode(self, train, mode, best):
        """The kept checkpoint is the epoch whose logged loss is the least or the most."""
        run = train("--epochs", "4", "--checkpoint-monitor", "train_loss", "--checkpoint-mode", mode)
        (metrics,) = run.out.glob("logs/**/metrics.csv")
        rows = list(csv.DictReader(metrics.read_text().splitlines()))
        losses = {int(row["epoch"]): float(row["train_loss"]) for row in rows if row["train_loss"]}
        assert len(set(losses.values())) == 4
        (kept,) = checkpoints(run)
        assert kept.startswith(f"epoch={best(losses, key=losses.get):04d}")

    def test_early_stop_patience(self, train):
        """A falling loss is no improvement in the mode max: one epoch more, then the end."""
        words = ("--epochs", "6", "--checkpoint-mode", "max", "--checkpoint-monitor", "train_loss")
        short = train(*words, "--early-stop-patience", "1").summary["training"]
        assert (short["stopped_by"], short["epochs"]) == ("early stopping", 2)
        assert train(*words, "--early-stop-patience", "50").summary["training"]["stopped_by"] == "epochs"

    def test_logger_csv(self, train):
        (metrics,) = train("--logger", "csv").out.glob("logs/**/metrics.csv")
        assert "val_loss" in metrics.read_text().splitlines()[0]

    def test_logger_none(self, train):
        assert not (train("--logger", "none").out / "logs").exists()

    def test_logger_tensorboard(self, train):
        assert len(list(train("--logger", "tensorboard").out.glob("logs/**/events.out.tfevents.*"))) == 1

    @pytest.mark.skipif(importlib.util.find_spec("mlflow") is not None, reason="tests what happens without mlflow")
    def test_logger_that_is_not_installed_is_refused(self, train):
        run = train("--logger", "mlflow")
        assert run.code == 2
        assert "ptycho-torch[mlflow]" in run.err

    def test_deprecated_spellings(self, train):
        with pytest.warns(DeprecationWarning, match="is deprecated; use") as caught:
            run = train("--device", "cpu", "--disable_mlflow", "--n_images", "30", *SHORT, small=False)
        assert run.code == 0
        assert {re.search(r"use (--[a-z-]+)", str(warning.message))[1] for warning in caught} == {
            "--accelerator", "--logger", "--n-groups",
        }  # fmt: skip
        assert run.summary["device"] == "cpu"
        assert not (run.out / "logs").exists()


class TestTrainingFlags:
    """Invariant 36 for data, network and training flags."""

    def test_N_other_than_the_file_is_refused(self, train):
        run = train("--N", "64")
        assert run.code == 2
        assert "32 x 32" in run.err
        assert train("--N", "32").code == 0

    def test_gridsize(self, train):
        run = train("--gridsize", "2")
        assert run.trainer.train_dataloader.dataset.groups.nn_indices.shape[1] == 4

    def test_n_groups(self, train):
        groups = train("--n-groups", "33").summary["groups"]
        assert groups["training"] + groups["validation"] == 33

    def test_n_groups_defaults_to_the_number_of_patterns(self, train):
        groups = train(*SHORT, small=False).summary["groups"]
        assert groups["training"] + groups["validation"] == 64

    def test_oversampling(self, train):
        """64 patterns, twice each; together with a number of groups it is refused."""
        words = ("--oversampling", "2", "--gridsize", "2", *SHORT[:-2])
        groups = train(*words, small=False).summary["groups"]
        assert groups["training"] + groups["validation"] == 128
        assert train("--oversampling", "2").code == 2

    def test_min_and_max_distance_px(self, train):
        """Positions of the scan as oracle; the step is 3 px."""
        run = train("--gridsize", "2", "--neighbor-count", "6", "--min-distance-px", "3.5", "--max-distance-px", "12")
        members = run.trainer.train_dataloader.dataset.groups.nn_indices
        points = read_scan(run.summary["inputs"][0]["path"]).positions_px
        distance = np.linalg.norm(points[members[:, 1:]] - points[members[:, :1]], axis=2)
        assert distance.min() >= 3.5
        assert distance.max() <= 12
        near = train("--gridsize", "2", "--neighbor-count", "6").trainer.train_dataloader.dataset.groups.nn_indices
        assert np.linalg.norm(points[near[:, 1:]] - points[near[:, :1]], axis=2).min() < 3.5

    def test_sequential(self, train):
        """40 of 64 seeds: the first 40, or any."""
        seeds = {}
        for flag in ("--sequential", "--no-sequential"):
            seeds[flag] = train(flag).trainer.train_dataloader.dataset.groups.nn_indices[:, 0]
        assert seeds["--sequential"].max() < 40
        assert seeds["--no-sequential"].max() >= 40

    def test_subsample(self, train):
        """Whether or not the groups are counted by hand."""
        run = train("--subsample", "48")
        assert run.summary["patterns"]["used"] == 48
        counted = train("--subsample", "20", *SHORT, small=False)
        assert counted.code == 0, counted.err
        assert counted.summary["groups"] == {"training": 19, "validation": 1}

    def test_synthetic(self, train):
        """Other objects than the scan's, at its positions and with its dose."""
        run = train("--synthetic", "2")
        assert run.code == 0, run.err
        dataset = run.trainer.train_dataloader.dataset
        assert len(dataset.source) == 2 * 64
        own = read_scan(run.summary["inputs"][0]["path"])
        simulated = np.asarray(dataset.source.counts(np.arange(64)))
        assert simulated.sum((1, 2)).mean() == pytest.approx(own.counts().sum((1, 2)).mean(), rel=0.1)
        assert not np.allclose(simulated, own.counts())
        assert "simulation" in run.summary["seconds"]

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
        missing = train("--start-from", tmp_path / "none.safetensors")
        assert missing.code == 2
        assert "none.safetensors" in missing.err
        assert not missing.out.exists()

    def test_neighbor_count(self, train):
        """With K = 3 the members of a group of 4 are the seed's three nearest; with more they spread."""
        spread = []
        for count in ("3", "12"):
            run = train("--gridsize", "2", "--neighbor-count", count)
            spread.append(np.abs(run.trainer.train_dataloader.dataset.groups.coords_relative).mean())
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
        run = train("--measurement", "normalised-amplitude", "--nphotons", "12345", data=path)
        assert run.code == 0, run.err
        assert run.summary["mean_counts"]["0"] == pytest.approx(12345, rel=1e-3)

    def test_architecture(self, train):
        unrolled, cnn = train(), train("--architecture", "cnn")
        assert weights(unrolled).keys() != weights(cnn).keys()

    def test_iterations(self, train):
        one, three = train("--iterations", "1").summary, train("--iterations", "3").summary
        assert three["parameters"] == 3 * one["parameters"]

    def test_sweeps(self, train):
        assert not same(train("--sweeps", "1"), train("--sweeps", "4"))

    def test_width(self, train):
        assert train("--width", "4").summary["parameters"] > 2 * train("--width", "2").summary["parameters"]

    def test_modes(self, train):
        run = train("--modes", "3", "--calibrate-probe", "--calibration-epochs", "1")
        assert len(run.summary["probe"]["mode_powers"]) == 3
        assert bundle_header(run.out / "model.safetensors")["probe"]["shape"][0] == 3

    def test_batch_size(self, train):
        assert train("--batch-size", "38").summary["training"]["steps"] == 1
        assert train("--batch-size", "19").summary["training"]["steps"] == 2

    def test_epochs(self, train):
        assert train("--epochs", "3").summary["training"]["epochs"] == 3

    def test_max_seconds(self, train):
        training = train("--epochs", "1000000", "--max-seconds", "0.2").summary["training"]
        assert training["stopped_by"] == "max_seconds"

    def test_seed(self, train):
        """Invariant 42: same seed, same bits."""
        first, again, other = train("--seed", "3"), train("--seed", "3"), train("--seed", "4")
        assert same(first, again)
        assert not same(first, other)

    def test_loss(self, train):
        assert not same(train("--loss", "amplitude"), train("--loss", "poisson"))

    def test_hold_out_fraction(self, train):
        """The patterns that the brief's formula names are in no group."""
        run = train("--hold-out", "0.25", "--seed", "5")
        held = np.random.default_rng(5).permutation(64)[:16]
        members = run.trainer.train_dataloader.dataset.groups.nn_indices
        assert not np.isin(members, held).any()
        assert run.summary["patterns"] == {"used": 48, "held_out": 16}

    def test_hold_out_indices(self, train, tmp_path):
        np.save(tmp_path / "held.npy", np.arange(10))
        run = train("--hold-out", tmp_path / "held.npy")
        assert run.trainer.train_dataloader.dataset.groups.nn_indices.min() >= 10
        assert run.summary["patterns"] == {"used": 54, "held_out": 10}

    def test_val_fraction(self, train):
        assert train("--val-fraction", "0.25").summary["groups"] == {"training": 30, "validation": 10}

    def test_validation_file(self, train, other_scan_file):
        run = train("--validation", other_scan_file)
        assert run.summary["groups"] == {"training": 40, "validation": 64}

    def test_calibrate_probe(self, train):
        """The simulated probe is exact: kept unless calibration is asked for."""
        assert train().summary["probe"]["calibrated"] is False
        run = train("--calibrate-probe", "--calibration-epochs", "2")
        assert run.summary["probe"]["calibrated"] is True
        assert run.summary["probe"]["epochs"] == len(run.summary["probe"]["losses"]) == 2
        assert not np.array_equal(weights(run)["probe"], weights(train())["probe"])

    def test_keep_probe(self, train, scan_file, tmp_path):
        """A guess is calibrated unless it is to be kept."""
        from dataclasses import replace

        path = tmp_path / "guess.npz"
        write_scan(path, replace(read_scan(scan_file), probe_kind="guess"))
        assert train("--calibration-epochs", "1", data=path).summary["probe"]["calibrated"] is True
        assert train("--keep-probe", data=path).summary["probe"]["calibrated"] is False

    def test_config_file(self, train, tmp_path):
        (tmp_path / "settings.toml").write_text("[training]\nepochs = 2\nbatch_size = 64\nval_fraction = 0.01\n")
        run = train("--config", tmp_path / "settings.toml", *SHORT[2:], small=False)
        assert run.summary["training"]["steps"] == 2
        assert run.summary["overrides_applied"]["epochs"] == {"value": 2, "source": "explicit"}

    def test_several_files_make_one_model(self, train, other_scan_file):
        run = train(other_scan_file)
        assert set(run.summary["mean_counts"]) == {"0", "1"}


def test_no_flag_of_train_is_untested():
    """Every option has its flag, or the flag of its negative, in this file."""
    text = Path(__file__).read_text()
    unseen = [row.flag for row in TRAIN_OPTIONS if f'"{row.flag}"' not in text]
    assert unseen == []


@pytest.mark.slow
def test_two_processes_share_the_steps(scan_file, tmp_path):
    """Invariant 41: two ranks halve the steps of an epoch, write one model and end in time."""
    import json
    import subprocess
    import sys

    words = ["train", scan_file, "--output-dir", tmp_path / "out", *SHORT, "--n-groups", "40", "--batch-size", "4"]
    words += ["--devices", "2", "--accelerator", "cpu"]
    done = subprocess.run(
        [sys.executable, "-m", "ptycho_cli", *map(str, words)], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["training"]["steps"] == 5
    assert (tmp_path / "out" / "model.safetensors").is_file()


def bare(scan_file: Path, path: Path, **changes) -> Path:
    """The scan as a file without probe and truth."""
    from dataclasses import replace

    gone = {"probe": None, "object_truth": None, "object_origin_yx_px": None}
    write_scan(path, replace(read_scan(scan_file), **{**gone, **changes}))
    return path


def test_a_scan_without_probe_is_trained_on_with_the_one_that_its_patterns_tell(train, scan_file, tmp_path):
    run = train("--calibration-epochs", "1", data=bare(scan_file, tmp_path / "bare.npz"))
    assert run.code == 0, run.err
    probe = run.summary["probe"]
    tried = {entry["defocus_cycles"]: entry["loss"] for entry in probe["search"]["losses"]}
    assert probe["search"]["defocus_cycles"] == min(tried, key=tried.get)
    assert probe["calibrated"] is True
    assert probe["overlap_with_given"] is None


def test_bad_data_is_exit_2_without_a_model(scan_file, tmp_path, capsys):
    """A scan without a photon cannot be trained on."""
    dark = np.zeros_like(read_scan(scan_file).measurements)
    path = bare(scan_file, tmp_path / "dark.npz", measurements=dark)
    assert main(["train", str(path), "--output-dir", str(tmp_path / "out")]) == 2
    assert "photons" in capsys.readouterr().err
    assert not (tmp_path / "out" / "model.safetensors").exists()
