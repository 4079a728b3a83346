"""Every flag of ``train`` does something, observed where it is consumed (invariant 36); real runs, nothing mocked."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from ptycho_cli.main import main
from ptycho_cli.options import TRAIN_OPTIONS, negative_flag
from ptycho_data.files import read_scan, write_scan
from training_flags import SHORT, TrainingFlags, checkpoints, same


class TestExecutionConfigCLI:
    """Invariant 36 for the execution flags."""

    def test_accelerator(self, train):
        run = train("--accelerator", "cpu")
        assert run.summary["device"] == "cpu"
        assert run.seen["trainer"].strategy.root_device.type == "cpu"

    def test_accelerator_that_is_not_there_is_refused(self, train):
        absent = "mps" if not torch.backends.mps.is_available() else "cuda"
        run = train("--accelerator", absent)
        assert run.code == 2
        assert "execution.accelerator" in run.err
        assert "trainer" not in run.seen

    def test_accelerator_auto_says_which_device_it_took_and_warns_of_nothing(self, train):
        run = train("--quiet")
        assert run.code == 0
        assert run.summary["device"].split(":")[0] in ("cpu", "cuda", "mps")
        assert run.err == ""

    def test_devices(self, train):
        """Two processes share each step: the trainer's world has two members."""
        run = train("--devices", "2", "--accelerator", "cpu", stop_before_fit=True)
        assert run.seen["trainer"].num_devices == 2
        assert run.seen["trainer"].world_size == 2

    def test_num_nodes(self, train):
        run = train("--num-nodes", "3", "--accelerator", "cpu", stop_before_fit=True)
        assert run.seen["trainer"].num_nodes == 3
        assert run.seen["trainer"].world_size == 3

    def test_strategy(self, train):
        run = train("--strategy", "ddp_spawn", "--accelerator", "cpu", "--devices", "2", stop_before_fit=True)
        assert run.seen["trainer"].strategy.launcher._start_method == "spawn"
        other = train("--strategy", "ddp", "--accelerator", "cpu", "--devices", "2", stop_before_fit=True)
        assert "Subprocess" in type(other.seen["trainer"].strategy.launcher).__name__

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
        assert run.seen["trainer"].precision == precision

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
        assert alone.seen["trainer"].train_dataloader.num_workers == 0
        assert helped.seen["trainer"].train_dataloader.num_workers == 1
        assert same(alone, helped)

    def test_prefetch_factor(self, train):
        run = train("--num-workers", "1", "--prefetch-factor", "3")
        assert run.seen["trainer"].train_dataloader.prefetch_factor == 3

    def test_learning_rate(self, train):
        run = train("--learning-rate", "0.0123", "--scheduler", "constant")
        assert [group["lr"] for group in run.seen["trainer"].optimizers[0].param_groups] == [0.0123]

    @pytest.mark.parametrize(
        ("scheduler", "low", "high"), [("constant", 1.0, 1.0), ("cosine", 0.015, 0.03), ("exponential", 0.015, 0.03)]
    )
    def test_scheduler(self, train, scheduler, low, high):
        """The rate at the end beside that at the start."""
        run = train("--scheduler", scheduler, "--learning-rate", "1e-3", "--epochs", "2", "--batch-size", "2")
        (rate,) = [group["lr"] for group in run.seen["trainer"].optimizers[0].param_groups]
        assert low * 1e-3 <= rate <= high * 1e-3

    def test_scheduler_plateau(self, train):
        run = train("--scheduler", "plateau")
        (config,) = run.seen["trainer"].lr_scheduler_configs
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

    def test_deprecated_spellings(self, train):
        with pytest.warns(DeprecationWarning, match="is deprecated; use") as caught:
            run = train("--device", "cpu", "--disable_mlflow", "--n_images", "30", *SHORT, small=False)
        assert run.code == 0
        assert {re.search(r"use (--[a-z-]+)", str(warning.message))[1] for warning in caught} == {
            "--accelerator",
            "--logger",
            "--n-groups",
        }
        assert run.summary["device"] == "cpu"
        assert not (run.out / "logs").exists()


class TestTrainingFlags(TrainingFlags):
    """Invariant 36 for data, network and training flags."""


def test_no_flag_of_train_is_untested(obeyed):
    """Every option was given to a run of the tests above, by its flag or that of its negative; run all of them."""
    flags = {row.flag: {row.flag, negative_flag(row)} for row in TRAIN_OPTIONS}
    assert [flag for flag, spellings in flags.items() if not spellings & obeyed] == []


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


def test_a_scan_without_probe_is_trained_on_with_an_estimated_one(train, scan_file, tmp_path):
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
