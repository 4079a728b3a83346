"""Every flag of ``train`` does something, observed where it is consumed (invariant 36); real runs on TensorFlow.

What holds for both backends is in ``training_flags``.
"""

from __future__ import annotations

import csv
import json
import re
import sys

import pytest
from programs import run_program
from ptycho_cli.options import TRAIN_OPTIONS, negative_flag
from ptycho_tf.framework import keras
from tensorflow.python.framework import config as switches
from training_flags import SHORT, TrainingFlags, checkpoints, same


def logged(run, metric: str) -> dict[int, float]:
    """A metric by epoch, from the csv logger's file."""
    rows = csv.DictReader((run.out / "logs" / "metrics.csv").read_text().splitlines())
    return {int(row["epoch"]): float(row[metric]) for row in rows}


class TestExecutionConfigCLI:
    """Invariant 36 for the execution flags."""

    def test_accelerator(self, train):
        run = train("--accelerator", "cpu")
        assert run.summary["device"] == "cpu"
        assert run.seen["devices"] == {"CPU"}

    def test_accelerator_that_is_not_there_is_refused(self, train, absent_accelerator):
        run = train("--accelerator", absent_accelerator)
        assert run.code == 2
        assert "execution.accelerator" in run.err
        assert "datasets" not in run.seen

    def test_accelerator_auto_says_which_device_it_took_and_warns_of_nothing(self, train):
        run = train("--quiet")
        assert run.code == 0
        assert run.summary["device"] in ("cpu", "gpu")
        assert run.err == ""

    def test_devices(self, train):
        """In this process TensorFlow is at work with one CPU device; with two, below."""
        run = train("--devices", "2", "--accelerator", "cpu")
        assert run.code == 2
        assert "execution.devices" in run.err
        assert "--devices 1" in run.err

    @pytest.mark.parametrize(
        ("words", "option", "reason"),
        [
            (("--num-nodes", "3"), "num_nodes", "several machines"),
            (("--strategy", "ddp_spawn"), "strategy", "have no meaning in TensorFlow"),
            (("--devices", "2", "--accumulate-grad-batches", "2"), "accum_steps", "accumulates no gradients"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_what_tensorflow_cannot_follow_is_refused_with_the_reason(self, train, words, option, reason):
        run = train(*words)
        assert run.code == 2
        assert f"execution.{option}" in run.err
        assert reason in run.err
        assert "--backend torch" in run.err
        assert not run.out.exists()

    def test_all_refusals_at_once(self, train):
        run = train("--num-nodes", "3", "--strategy", "ddp")
        assert run.code == 2
        assert all(f"execution.{name}" in run.err for name in ("num_nodes", "strategy"))

    @pytest.mark.parametrize(("flag", "on"), [("--deterministic", True), ("--no-deterministic", False)])
    def test_deterministic(self, train, flag, on):
        """TRN-9: TensorFlow's switch while training, and as before afterwards."""
        assert set(train(flag).seen["deterministic"]) == {on}
        assert not switches.is_op_determinism_enabled()

    @pytest.mark.parametrize(
        ("precision", "weights", "kernels"),
        [
            ("32-true", "float32", "float32"),
            ("64-true", "float64", "float64"),
            ("16-mixed", "float32", "float16"),
            ("bf16-mixed", "float32", "bfloat16"),
        ],
    )
    def test_precision(self, train, precision, weights, kernels):
        """Dtype of the variables and of the convolutions; float16 scales its loss."""
        run = train("--precision", precision, "--accelerator", "cpu")
        assert run.code == 0, run.err
        assert run.seen["dtypes"] == {weights}
        assert kernels in run.seen["kernels"]
        assert isinstance(run.seen["optimiser"], keras.mixed_precision.LossScaleOptimizer) == (precision == "16-mixed")

    def test_gradient_clip_val(self, train):
        """Keras clips the norm of all gradients together; other steps, other weights."""
        free, clipped = train(), train("--gradient-clip-val", "1e-6")
        assert free.seen["optimiser"].global_clipnorm is None
        assert clipped.seen["optimiser"].global_clipnorm == 1e-6
        assert not same(free, clipped)

    def test_accumulate_grad_batches(self, train):
        """38 groups in batches of 4: 10 batches, 5 steps of two."""
        assert train("--batch-size", "4", "--accumulate-grad-batches", "2").summary["training"]["steps"] == 5

    def test_num_workers_and_prefetch_factor(self, train):
        """Invariant 42: threads read ahead, and change nothing."""
        alone, helped = train(), train("--num-workers", "2", "--prefetch-factor", "3")
        assert (alone.seen["loading"]["num_workers"], alone.seen["loading"]["prefetch_factor"]) == (0, None)
        assert (helped.seen["loading"]["num_workers"], helped.seen["loading"]["prefetch_factor"]) == (2, 3)
        assert same(alone, helped)

    def test_learning_rate(self, train):
        run = train("--learning-rate", "0.0123", "--scheduler", "constant")
        assert run.seen["rates"] == pytest.approx([0.0123] * len(run.seen["rates"]))

    @pytest.mark.parametrize(("scheduler", "last"), [("cosine", 0.02 + 0.98 * 0.5), ("exponential", 10**-0.85)])
    def test_scheduler(self, train, scheduler, last):
        """TRN-6: the rate of the second of two steps, half way."""
        run = train("--scheduler", scheduler, "--learning-rate", "1e-4", "--batch-size", "19")
        assert run.seen["rates"] == pytest.approx([1e-4, last * 1e-4], rel=1e-4)

    def test_scheduler_plateau(self, train):
        """Halved after more than 3 epochs without a lower val_loss."""
        words = ("--epochs", "7", "--batch-size", "38", "--learning-rate", "1e-12")
        rates = train("--scheduler", "plateau", *words).seen["rates"]
        assert rates == pytest.approx([1e-12] * 5 + [5e-13] * 2, rel=1e-6, abs=0)

    def test_quiet(self, train):
        """Without it; with it, above."""
        assert "training: " in train("--progress").err

    def test_disable_checkpointing_and_logger_none(self, train):
        """Nothing but the model and its summary."""
        off = train("--disable-checkpointing", "--logger", "none")
        assert checkpoints(off) == []
        assert not (off.out / "logs").exists()
        assert (off.out / "model.safetensors").is_file()

    @pytest.mark.parametrize(("kept", "count"), [("0", 0), ("2", 2), ("-1", 3)])
    def test_checkpoint_save_top_k(self, train, kept, count):
        words = ("--epochs", "3", "--enable-checkpointing", "--checkpoint-save-top-k", kept)
        assert len(checkpoints(train(*words))) == count

    @pytest.mark.parametrize(("metric", "mode", "best"), [("val_loss", "min", min), ("train_loss", "max", max)])
    def test_checkpoint_monitor_and_mode(self, train, metric, mode, best):
        """The kept checkpoint is the epoch whose logged loss is the least or the most, named after it."""
        words = ("--epochs", "4", "--learning-rate", "0.01")
        run = train(*words, "--checkpoint-monitor", metric, "--checkpoint-mode", mode)
        losses = logged(run, metric)
        assert len(set(losses.values())) == 4
        (kept,) = checkpoints(run)
        assert kept.startswith(f"epoch={best(losses, key=losses.get):04d}-{metric}=")

    def test_early_stop_patience(self, train):
        """A falling loss is no improvement in the mode max: one epoch more, then the end."""
        words = ("--epochs", "6", "--checkpoint-mode", "max", "--checkpoint-monitor", "train_loss")
        short = train(*words, "--early-stop-patience", "1").summary["training"]
        assert (short["stopped_by"], short["epochs"]) == ("early stopping", 2)
        assert train(*words, "--early-stop-patience", "50").summary["training"]["stopped_by"] == "epochs"

    def test_logger_csv(self, train):
        run = train("--logger", "csv", "--epochs", "2")
        result = run.summary["training"]["losses"]
        assert {name: logged(run, name)[1] for name in ("train_loss", "val_loss")} == pytest.approx(result)

    def test_logger_tensorboard(self, train):
        """Events of the training and of the validation, in their own folders, as Keras has it."""
        run = train("--logger", "tensorboard")
        assert run.code == 0, run.err
        assert {path.parent.name for path in run.out.glob("logs/**/events.out.tfevents.*")} == {"train", "validation"}

    def test_deprecated_spellings(self, train):
        with pytest.warns(DeprecationWarning, match="is deprecated; use") as caught:
            run = train("--device", "cpu", "--disable_mlflow", "--n_images", "30", *SHORT, small=False)
        assert run.code == 0
        spellings = {re.search(r"use (--[a-z-]+)", str(warning.message))[1] for warning in caught}
        assert spellings == {"--accelerator", "--logger", "--n-groups"}
        assert run.summary["device"] == "cpu"
        assert run.group_counts == {"training": 28, "validation": 2}
        assert not (run.out / "logs").exists()


class TestTrainingFlags(TrainingFlags):
    """Invariant 36 for data, network and training flags."""


@pytest.mark.slow
def test_two_devices_share_the_steps(scan_file, tmp_path):
    """Invariant 41: two parts of the CPU halve the steps of an epoch; in a process that has not counted its devices."""
    command = (sys.executable, "-m", "ptycho_cli", "train", scan_file, "--output-dir", "out", "--backend", "tf")
    words = (*SHORT, "--n-groups", "40", "--batch-size", "4", "--devices", "2", "--accelerator", "cpu", "--quiet")
    run_program(*command, *words, cwd=tmp_path, env={"OMP_NUM_THREADS": "1"})
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["training"]["steps"] == 5
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_no_flag_of_train_is_untested(obeyed):
    """Every option was given to a run of the tests above, by its flag or that of its negative; run all of them."""
    flags = {row.flag: {row.flag, negative_flag(row)} for row in TRAIN_OPTIONS}
    assert [flag for flag, spellings in flags.items() if not spellings & obeyed] == []
