"""Training through the backend: every execution option at its consumer (specs/training.md TRN)."""

from __future__ import annotations

import csv
import itertools
import json
import math
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from ptycho_contracts.config import ExecutionConfig
from ptycho_contracts.problems import ContractError, WorkFailedError
from ptycho_data.deadline import Deadline
from ptycho_data.files import write_scan
from ptycho_data.fitting import Attempts
from ptycho_data.stages import Watcher
from ptycho_torch import training as training_module
from ptycho_torch.backend import create_training_payload, train
from ptycho_torch.bundle import load_bundle
from ptycho_torch.recovery import PatchVariance, fresh_network

SMALL = {"epochs": 2, "width": 2, "iterations": 1, "gridsize": 1, "n_groups": 40, "batch_size": 8, "val_fraction": 0.1}
"""36 groups of one pattern to train on, 4 for val_loss: 5 steps per epoch."""


@dataclass
class Run:
    """A training that was run: what it wrote, said, and did while it ran."""

    out: Path
    summary: dict[str, Any]
    trainer: pl.Trainer
    rates: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    deterministic: bool = False

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        """Tensors of the model that was written."""
        return load_bundle(self.out / "model.safetensors").model.state_dict()


def same(one: Run, other: Run) -> bool:
    """Weights bit for bit."""
    first, second = one.weights, other.weights
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture
def run(tmp_path, scan, monkeypatch) -> Callable[..., Run]:
    """Train for real, and watch the trainer."""
    watched: list[Run] = []

    class Watch(pl.Callback):
        def on_train_start(self, trainer, module):
            mine = watched[-1]
            mine.deterministic = torch.are_deterministic_algorithms_enabled()

            def note(optimiser, *_: Any) -> None:
                mine.rates.append(optimiser.param_groups[0]["lr"])
                gradients = [weight.grad.norm() for weight in module.parameters() if weight.grad is not None]
                mine.norms.append(float(torch.stack(gradients).norm()))

            trainer.optimizers[0].register_step_post_hook(note)

    class Watched(pl.Trainer):
        def __init__(self, *args: Any, callbacks: list[pl.Callback], **options: Any) -> None:
            super().__init__(*args, callbacks=[*callbacks, Watch()], **options)
            watched.append(Run(tmp_path, {}, self))

    monkeypatch.setattr(training_module.pl, "Trainer", Watched)
    count = 0

    def make(data=scan, *, execution: dict[str, Any] | None = None, validation=None, progress=None, **overrides) -> Run:
        nonlocal count
        count += 1
        out = tmp_path / f"out{count}"
        path = tmp_path / f"scan{count}.npz"
        write_scan(path, data)
        options = ExecutionConfig(**{"accelerator": "cpu", "logger_backend": "none", **(execution or {})})
        idle = {"iterations"} if overrides.get("architecture") == "cnn" else set()
        idle |= {"val_fraction"} if validation is not None else set()
        small = {name: value for name, value in SMALL.items() if name not in idle}
        payload = create_training_payload(path, out, {**small, **overrides}, options)
        _, summary = train(payload, validation=validation, progress=progress)
        done = watched[-1]
        done.out, done.summary = out, summary
        return done

    return make


@pytest.mark.parametrize("gridsize", [1, 2, 3])
@pytest.mark.parametrize("architecture", ["unrolled", "cnn"])
def test_trains_and_writes_a_bundle(run, gridsize, architecture):
    """Invariant 43: what is written is trained: other weights than at the start; with val_loss, counted right."""
    done = run(gridsize=gridsize, architecture=architecture)
    assert done.summary["training"]["epochs"] == 2
    assert done.summary["training"]["steps"] == 10
    assert done.summary["training"]["stopped_by"] == "epochs"
    assert done.summary["training"]["losses"].keys() >= {"train_loss", "val_loss"}
    assert all(math.isfinite(loss) for loss in done.summary["training"]["losses"].values())
    assert done.summary["groups"] == {"training": 36, "validation": 4}
    bundle = load_bundle(done.out / "model.safetensors")
    assert bundle.model.config.gridsize == gridsize
    assert bundle.provenance["training"] == done.summary["training"]
    if architecture == "unrolled":
        assert bundle.model.network.nets[0].out_conv.weight.abs().sum() > 0  # zero at the start
    json.dumps(done.summary, allow_nan=False)


def test_training_lowers_the_loss(run):
    """More epochs, lower val_loss than physics alone."""
    options = {"gridsize": 2, "passes": 1, "width": 4}
    short = run(epochs=1, execution={"learning_rate": 1e-9}, **options)
    long = run(epochs=20, execution={"learning_rate": 3e-3}, **options)
    losses = [done.summary["training"]["losses"]["val_loss"] for done in (short, long)]
    assert losses[1] < 0.9 * losses[0]


def test_same_seed_same_bits(run):
    """Invariant 42, and the caller's dice and switches are as before."""
    random.seed(1)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.random.get_rng_state()  # noqa: NPY002
    first = run(seed=3)
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]  # noqa: NPY002
    assert torch.equal(torch.random.get_rng_state(), states[2])
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.get_default_dtype() == torch.float32
    torch.manual_seed(77)
    assert same(first, run(seed=3))
    assert not same(first, run(seed=4))


def test_workers_change_nothing(run):
    """Invariant 42: over three epochs, 0 and 2 workers; they are really there."""
    alone = run(epochs=3)
    helped = run(epochs=3, execution={"num_workers": 2, "prefetch_factor": 3})
    assert helped.trainer.train_dataloader.num_workers == 2
    assert helped.trainer.train_dataloader.prefetch_factor == 3
    assert same(alone, helped)


def test_held_out_patterns_change_no_bit(run, scan):
    """Invariant 10: held-out patterns change neither weights nor probe nor frozen mean counts; others do."""
    held = np.random.default_rng(0).permutation(64)[:16]
    altered, reported = (np.array(scan.measurements) for _ in range(2))
    altered[held] = altered[held][:, ::-1] * 3 + 1
    used = np.setdiff1d(np.arange(64), held)
    reported[used[3]] = reported[used[3]][::-1]
    options = {"hold_out": "0.25", "calibrate_probe": True, "calibration_epochs": 2, "n_groups": 30, "gridsize": 2}
    first, second, third = (
        run(replace(scan, measurements=data), **options) for data in (scan.measurements, altered, reported)
    )
    assert same(first, second)
    assert not same(first, third)
    assert first.summary["mean_counts"] == second.summary["mean_counts"]
    assert first.summary["patterns"] == {"used": 48, "held_out": 16}
    groups = first.trainer.train_dataloader.dataset.groups.nn_indices
    assert not np.isin(groups, held).any()


def test_calibration(run, scan):
    """A guess is calibrated, an exact probe is kept, unless requested otherwise; the bundle holds the probe used."""
    y, x = np.mgrid[:32, :32] - 16
    wrong = (scan.probe * np.exp(0.01j * (x**2 + y**2))).astype(np.complex64)
    guess = replace(scan, probe=wrong, probe_kind="guess", object_truth=None, object_origin_yx_px=None)
    options = {"epochs": 1, "calibration_epochs": 15}
    calibrated, kept = run(guess, **options), run(guess, calibrate_probe=False, epochs=1)
    assert calibrated.summary["probe"]["calibrated"]
    assert len(calibrated.summary["probe"]["losses"]) == calibrated.summary["probe"]["epochs"] == 15
    assert not kept.summary["probe"]["calibrated"]
    assert not run(scan, epochs=1).summary["probe"]["calibrated"]
    unit = wrong[0] / np.linalg.norm(wrong)
    np.testing.assert_allclose(kept.weights["probe"][0].numpy(), unit, atol=1e-6)
    truth = scan.probe[0] / np.linalg.norm(scan.probe)
    before, after = (abs(np.vdot(probe, truth)) for probe in (unit, calibrated.weights["probe"][0].numpy()))
    assert after > before + 0.3 * (1 - before)
    assert float(calibrated.weights["probe"].abs().square().sum()) == pytest.approx(1, rel=1e-4)
    losses = [done.summary["training"]["losses"]["val_loss"] for done in (calibrated, kept)]
    assert losses[0] < losses[1]


def test_a_file_without_probe(run, scan):
    """One is found from the patterns, calibrated and kept in the bundle."""
    done = run(replace(scan, probe=None), epochs=1, calibration_epochs=2)
    assert done.summary["probe"]["calibrated"]
    assert done.summary["probe"]["overlap_with_given"] is None
    assert done.summary["probe"]["search"]["losses"]
    assert done.weights["probe"].shape == (1, 32, 32)


def test_modes(run):
    """Asked-for modes are started, calibrated and kept in the bundle."""
    done = run(modes=3, calibrate_probe=True, calibration_epochs=1, epochs=1)
    assert done.weights["probe"].shape == (3, 32, 32)
    assert sum(done.summary["probe"]["mode_powers"]) == pytest.approx(1)


def test_several_scans(run, scan, tiny_scan, tmp_path):
    """Each scan has its own mean counts; groups never mix scans."""
    from ptycho_data.files import combine_scans

    brighter = replace(scan, measurements=np.asarray(scan.measurements) * 4)
    both = replace(combine_scans([scan, brighter]), object_truths={})  # a file holds one true object
    done = run(both, gridsize=2, n_groups=60)
    means = done.summary["mean_counts"]
    assert means["1"] == pytest.approx(4 * means["0"], rel=1e-6)
    groups = done.trainer.train_dataloader.dataset.groups.nn_indices
    assert ((groups < 64).all(1) | (groups >= 64).all(1)).all()


def test_validation_file(run, scan, tmp_path):
    """val_loss is that of the other file, under its own bad pixels; all groups train."""
    bad = np.zeros((32, 32), bool)
    bad[10:14, 10:14] = True
    path = tmp_path / "validation.npz"
    losses = []
    for garbage in (0, 60000):
        measured = np.array(scan.measurements)
        measured[:, bad] = garbage
        write_scan(path, replace(scan, measurements=measured, bad_pixels=bad))
        done = run(epochs=1, validation=[path])
        losses.append(done.summary["training"]["losses"]["val_loss"])
    assert done.summary["groups"] == {"training": 40, "validation": 64}
    assert losses[0] == losses[1]


def test_validation_of_another_size_is_refused(run, tiny_scan, tmp_path):
    """By name, with both sizes."""
    write_scan(tmp_path / "small.npz", tiny_scan)
    with pytest.raises(ContractError, match=r"small\.npz.*32 x 32.*16 x 16"):
        run(validation=[tmp_path / "small.npz"])


@pytest.mark.parametrize("change", [{"val_fraction": 0.0}, {"n_groups": 1}])
def test_no_group_left_for_validation_is_refused(run, change):
    """TRN-5."""
    with pytest.raises(ContractError, match=r"training\.no_validation"):
        run(**change)


def test_bad_data_is_refused(run, scan):
    """A dark probe, no photons: each a clear error before any training."""
    with pytest.raises(ContractError, match=r"scan\.dark_probe"):
        run(replace(scan, probe=np.zeros_like(scan.probe)))
    with pytest.raises(ContractError, match=r"scan\.no_photons"):
        run(replace(scan, measurements=np.zeros_like(scan.measurements)), measurement="counts")


@pytest.fixture
def a_second_a_look(monkeypatch):
    """A clock that is a second later at each look; a step looks at its beginning and its end. Before the training no
    time passes."""
    monkeypatch.setitem(Deadline.__init__.__kwdefaults__, "clock", lambda: 0.0)
    monkeypatch.setitem(Attempts.__init__.__kwdefaults__, "clock", partial(next, itertools.count()))


def test_max_seconds(run, a_second_a_look):
    """Ends after the step in which the time limit is reached, with a bundle; the schedule has ended by then."""
    seen: list[tuple[str, int, int]] = []
    done = run(epochs=1_000_000, max_seconds=24, progress=lambda *report: seen.append(report))
    assert [report for report in seen if report[0] == "training"] == [
        ("training", step, 5_000_000) for step in range(1, 13)
    ]  # what was done, not filled up to all
    training = done.summary["training"]
    assert (training["stopped_by"], training["steps"], training["epochs"]) == ("max_seconds", 12, 3)
    assert done.rates[-1] < 0.2 * done.rates[0]
    assert "val_loss" in done.summary["training"]["losses"]


def test_divergence_is_an_error_without_a_bundle(run, tmp_path):
    """TRN-11."""
    with pytest.raises(WorkFailedError, match=r"training\.diverged"):
        run(execution={"learning_rate": 1e30}, epochs=3)
    assert list(tmp_path.glob("out1/*"))
    assert not list(tmp_path.glob("out*/model.safetensors"))


def test_starts_from_a_bundle(run):
    """One epoch more from trained weights: training starts from them; another network is refused."""
    first = run(epochs=6, execution={"learning_rate": 3e-3})
    path = str(first.out / "model.safetensors")
    frozen = {"execution": {"learning_rate": 1e-12}, "epochs": 1}
    again = run(start_from=path, **frozen)
    weights = first.weights
    for name, value in again.weights.items():
        torch.testing.assert_close(value, weights[name], rtol=0, atol=1e-6)
    assert not same(first, run(seed=0, **frozen))
    with pytest.raises(ContractError, match=r"width.*bundle\.other_network"):
        run(start_from=path, width=3)


def test_trains_on_simulated_objects(run, scan):
    """Probe, positions and dose are the scan's; its patterns are not trained on, held-out ones change nothing."""
    options = {"synthetic": 2, "n_groups": 90, "hold_out": "0.25"}
    done = run(**options)
    source = done.trainer.train_dataloader.dataset.source
    assert len(source) == 2 * 48
    assert source.counts().sum((1, 2)).mean() == pytest.approx(scan.counts().sum((1, 2)).mean(), rel=0.1)
    assert done.summary["groups"] == {"training": 81, "validation": 9}
    altered = np.array(scan.measurements)
    held = np.random.default_rng(0).permutation(64)[:16]
    altered[held] = altered[held][:, ::-1]
    assert same(done, run(replace(scan, measurements=altered), **options))


def test_a_collapse_is_reported(run):
    """Invariant 46: a network that explains no more than empty space is called collapsed; one that learned is not."""
    uniform = run(architecture="cnn", epochs=1, execution={"learning_rate": 1e-12})
    good = run(architecture="unrolled", epochs=1)
    assert uniform.summary["training"]["collapsed"]
    assert not good.summary["training"]["collapsed"]
    for done in (uniform, good):
        losses = done.summary["training"]
        assert losses["collapsed"] == (losses["losses"]["val_loss"] >= 0.98 * losses["uniform_loss"])
    assert uniform.summary["training"]["uniform_loss"] == good.summary["training"]["uniform_loss"]
    assert good.summary["training"]["patch_variance"] > 10 * uniform.summary["training"]["patch_variance"]


def test_patch_variance_against_numpy():
    """TRN-14: by NumPy's variance, in batches of any size; 0 where every pattern has the same answer."""
    rng = np.random.default_rng(0)
    probe = rng.normal(size=(2, 6, 6)) + 1j * rng.normal(size=(2, 6, 6))
    probe /= np.linalg.norm(probe)
    patches = rng.normal(size=(9, 6, 6)) + 1j * rng.normal(size=(9, 6, 6)) + 2
    expected = (np.var(patches, axis=0) * (np.abs(probe) ** 2).sum(0)).sum()
    variance, same_for_all = PatchVariance(torch.from_numpy(probe)), PatchVariance(torch.from_numpy(probe))
    assert float(variance.value()) == 0
    for part in (patches[:1], patches[1:5], patches[5:]):
        variance.add(torch.from_numpy(part))
        same_for_all.add(torch.from_numpy(np.repeat(patches[:1], len(part), 0)))
    assert float(variance.value()) == pytest.approx(expected)
    assert float(same_for_all.value()) == pytest.approx(0, abs=1e-12)


class TestRecovery:
    """Invariant 46, TRN-16: a training that collapsed is restarted, once."""

    COLLAPSING = {"architecture": "cnn", "seed": 5}  # noqa: RUF012

    def test_restarts_after_a_quarter_of_the_budget(self, run):
        """Other weights, a third of the rate and a schedule from its start, for the epochs that are left."""
        seen: list[tuple[str, int, int]] = []
        execution = {"learning_rate": 1e-9, "checkpoint_save_top_k": -1}
        done = run(**self.COLLAPSING, epochs=8, execution=execution, progress=lambda *report: seen.append(report))
        reported = done.summary["training"]
        assert (reported["restarts"], reported["epochs"], reported["steps"], reported["collapsed"]) == (1, 8, 40, True)
        assert "after epoch 2 of 8 was not below 0.98" in reported["restart_reason"]
        again = 0.02 + 0.98 * (1 + np.cos(np.pi * np.arange(30) / 30)) / 2
        np.testing.assert_allclose(done.rates[10:], 1e-9 / 3 * again, rtol=1e-6)
        training = [report for report in seen if report[0].startswith("training")]
        assert training[:10] == [("training", step, 40) for step in range(1, 11)]
        assert training[10:] == [("training again", step, 30) for step in range(1, 31)]
        states = {
            int(path.stem[6:10]): training_module.SafetensorsCheckpoints().load_checkpoint(path)["state_dict"]
            for path in done.out.glob("checkpoints/*.ckpt")
        }
        name = "model.network.stages.0.0.weight"
        torch.testing.assert_close(states[0][name], states[1][name], rtol=0, atol=1e-6)  # its own weights, to the end
        torch.testing.assert_close(states[2][name], states[7][name], rtol=0, atol=1e-6)
        assert (states[1][name] - states[2][name]).abs().max() > 0.01

    @pytest.fixture
    def start_with(self, monkeypatch):
        """Change the weights that a training starts with, by a function of its model."""
        made = training_module.PtychoModel.__init__

        def patch(change: Callable[[Any], None]) -> None:
            def begin(model: Any, *args: Any) -> None:
                made(model, *args)
                if not any(weight.is_meta for weight in model.parameters()):  # a bundle is being opened
                    with torch.no_grad():
                        change(model)

            monkeypatch.setattr(training_module.PtychoModel, "__init__", begin)

        return patch

    @staticmethod
    def dead(model: Any) -> None:
        """Far from any object: the physics cannot correct it."""
        model.network.nets[0].out_conv.bias.fill_(30.0)

    def test_recovers(self, run, start_with):
        """A network whose first weights are dead learns with the fresh ones; the best checkpoint is of these."""
        start_with(self.dead)
        done = run(epochs=4)
        reported = done.summary["training"]
        assert reported["restarts"] == 1
        assert "after epoch 1 of 4" in reported["restart_reason"]
        assert not reported["collapsed"]
        assert reported["losses"]["val_loss"] < 0.5 * reported["uniform_loss"]
        assert load_bundle(done.out / "model.safetensors").model.network.nets[0].out_conv.bias.abs().max() < 1

    @pytest.mark.parametrize("scheduler", ["constant", "plateau", "exponential"])
    def test_the_second_attempt_has_no_past(self, run, start_with, scheduler):
        """To rounding the training that starts with these weights and a third of the rate, and no other moments."""
        whole = {"batch_size": 64, "seed": 3, "passes": 1}
        execution = {"scheduler": scheduler, "enable_checkpointing": False}
        start_with(self.dead)
        after = run(**whole, epochs=4, execution={"learning_rate": 0.03, **execution})
        assert after.summary["training"]["restarts"] == 1
        weights = fresh_network(load_bundle(after.out / "model.safetensors").model.config, seed=4)
        start_with(lambda model: model.network.load_state_dict(weights.state_dict()))
        alone = run(**whole, epochs=3, execution={"learning_rate": 0.01, **execution})
        np.testing.assert_allclose(after.rates[1:], alone.rates, rtol=1e-6)
        for name, value in alone.weights.items():
            torch.testing.assert_close(after.weights[name], value, rtol=1e-3, atol=1e-5)

    def test_a_quarter_of_the_budget_at_least(self, run, a_second_a_look):
        """Detected when early stopping or the time ends, it still has a quarter; early stopping counts from 0."""
        execution = {"learning_rate": 1e-9, "early_stop_patience": 1}
        reported = run(**self.COLLAPSING, epochs=100, execution=execution).summary["training"]
        assert "after epoch 2 of 100" in reported["restart_reason"]
        assert reported["stopped_by"] == "early stopping"
        assert reported["epochs"] == 4
        short = run(**self.COLLAPSING, epochs=1, execution={"learning_rate": 1e-9, "scheduler": "plateau"})
        assert short.summary["training"]["epochs"] == 2
        assert short.rates == pytest.approx([1e-9] * 5 + [1e-9 / 3] * 5, rel=1e-6, abs=0)
        timed = run(**self.COLLAPSING, epochs=1_000_000, max_seconds=40, execution={"learning_rate": 1e-9})
        assert timed.summary["training"]["restarts"] == 1
        assert timed.summary["training"]["stopped_by"] == "max_seconds"


class TestSupervised:
    """TRN-15: the true object in the loss."""

    WORDS = {"synthetic": 2, "n_groups": 60, "gridsize": 2, "passes": 1, "width": 4}  # noqa: RUF012

    def test_lowers_the_error_of_the_object(self, run):
        """Lower than at the start, and than with the patterns alone; val_loss stays the loss on the patterns."""
        slow, fast = ({"learning_rate": rate} for rate in (1e-9, 3e-3))
        start = run(**self.WORDS, epochs=1, supervised_weight=1.0, execution=slow)
        patterns = run(**self.WORDS, epochs=1, execution=slow)
        taught = run(**self.WORDS, epochs=8, supervised_weight=1.0, execution=fast)
        hardly = run(**self.WORDS, epochs=8, supervised_weight=1e-6, execution=fast)
        errors = [done.summary["training"]["losses"]["supervised_error"] for done in (start, taught, hardly)]
        assert errors[1] < 0.9 * errors[0]
        assert errors[1] < errors[2]
        losses = [done.summary["training"]["losses"]["val_loss"] for done in (start, patterns)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
        assert "supervised_error" not in patterns.summary["training"]["losses"]
        assert not patterns.trainer.train_dataloader.dataset.truth

    def test_takes_the_truth_of_the_files(self, run, scan):
        """Every scan needs one; without it a clear error before any training."""
        done = run(supervised_weight=1.0)
        assert done.summary["training"]["losses"]["supervised_error"] < 1
        bare = replace(scan, object_truth=None, object_origin_yx_px=None)
        with pytest.raises(ContractError, match=r"truth\.missing") as caught:
            run(bare, supervised_weight=1.0)
        assert "`synthetic=N`" in str(caught.value)
        run(bare, supervised_weight=1.0, synthetic=2, n_groups=40)

    def test_validation_without_truth_has_no_error(self, run, scan, tmp_path):
        """val_loss of measured patterns while simulated objects teach."""
        write_scan(tmp_path / "bare.npz", replace(scan, object_truth=None, object_origin_yx_px=None))
        done = run(**self.WORDS, epochs=1, supervised_weight=1.0, validation=[tmp_path / "bare.npz"])
        assert done.summary["training"]["losses"].keys() == {"train_loss", "val_loss"}

    @pytest.mark.parametrize("option", [{"accum_steps": 2}, {"precision": "64-true"}, {"num_workers": 1}])
    def test_works_with(self, run, option):
        """Accumulated gradients, double precision, workers: finite, and near to the plain one or the same."""
        plain = run(**self.WORDS, supervised_weight=1.0)
        other = run(**self.WORDS, supervised_weight=1.0, execution=option)
        errors = [done.summary["training"]["losses"]["supervised_error"] for done in (plain, other)]
        assert errors[1] == pytest.approx(errors[0], rel=0.05)
        assert same(plain, other) == ("num_workers" in option)


def test_progress(run):
    """Steps done, of steps in all."""
    seen: list[tuple[str, int, int]] = []
    run(progress=lambda *report: seen.append(report))
    assert [report for report in seen if report[0] == "training"] == [("training", step, 10) for step in range(1, 11)]


def test_who_watches_hears_the_loss(run):
    """Of every step, while it can be read."""
    losses: list[float] = []

    class Watch(Watcher):
        def __call__(self, stage, done, total, *, loss=None, picture=None):
            if stage == "training" and total:
                losses.append(float(loss))

    done = run(progress=Watch(), execution={"learning_rate": 1e-12})
    assert len(losses) == 10
    # Nothing is learned: the mean over an epoch's steps is the loss that it reports.
    assert np.mean(losses[:5]) == pytest.approx(done.summary["training"]["losses"]["train_loss"], rel=0.05)


class TestExecution:
    """Invariant 36: each option changes what its consumer does."""

    def test_accelerator(self, run):
        done = run(execution={"accelerator": "cpu"})
        assert done.summary["device"] == done.trainer.strategy.root_device.type == "cpu"
        assert {weight.device.type for weight in done.weights.values()} == {"cpu"}

    def test_accelerator_that_is_absent(self, run):
        absent = "mps" if not torch.backends.mps.is_available() else "cuda"
        with pytest.raises(ContractError, match=r"device\.absent"):
            run(execution={"accelerator": absent})

    @pytest.mark.parametrize("deterministic", [True, False])
    def test_deterministic(self, run, deterministic):
        assert run(execution={"deterministic": deterministic}).deterministic is deterministic
        assert not torch.are_deterministic_algorithms_enabled()

    @pytest.mark.parametrize("precision", ["64-true", "bf16-mixed"])
    @pytest.mark.parametrize("architecture", ["unrolled", "cnn"])
    def test_precision(self, run, precision, architecture):
        """Each computes something else, near to single precision, and the bundle is in single precision."""
        usual, other = (
            run(execution={"precision": name}, architecture=architecture) for name in ("32-true", precision)
        )
        assert not same(usual, other)
        losses = [done.summary["training"]["losses"]["val_loss"] for done in (usual, other)]
        assert losses[1] == pytest.approx(losses[0], rel=0.05)
        assert {str(value.dtype) for value in other.weights.values()} == {"torch.float32", "torch.complex64"}
        assert torch.equal(other.weights["probe"], usual.weights["probe"])

    def test_precision_that_is_absent(self, run):
        """Lightning would take bf16 in its place."""
        with pytest.raises(ContractError, match=r"precision\.absent"):
            run(execution={"precision": "16-mixed"})

    def test_gradient_clip_val(self, run):
        free, clipped = run(), run(execution={"gradient_clip_val": 1e-3})
        assert max(free.norms) > 2e-3
        assert max(clipped.norms) <= 1.001e-3

    def test_accum_steps(self, run):
        done = run(execution={"accum_steps": 5})
        assert done.summary["training"]["steps"] == 2

    def test_weight_decay(self, run):
        """TRN-6, in one step of a new optimiser without any gradient."""
        module = run(epochs=1, execution={"learning_rate": 0.5, "scheduler": "constant"}).trainer.lightning_module
        optimiser = module.configure_optimizers()["optimizer"]
        before = {name: weight.detach().clone() for name, weight in module.model.network.named_parameters()}
        for weight in module.parameters():
            weight.grad = torch.zeros_like(weight)
        optimiser.step()
        for name, weight in module.model.network.named_parameters():
            torch.testing.assert_close(weight.detach(), before[name] * (1 - 0.5 * 1e-3))

    def test_learning_rate(self, run):
        assert run(execution={"learning_rate": 0.0123, "scheduler": "constant"}).rates == [0.0123] * 10

    def test_schedules(self, run):
        """Over the 10 steps, as TRN-6 has them."""
        fraction = np.arange(10) / 10
        expected = {
            "constant": np.ones(10),
            "cosine": 0.02 + 0.98 * (1 + np.cos(np.pi * fraction)) / 2,
            "exponential": 10 ** (-1.7 * fraction),
        }
        for name, factors in expected.items():
            rates = run(execution={"scheduler": name, "learning_rate": 1e-3}).rates
            np.testing.assert_allclose(rates, 1e-3 * factors, rtol=1e-6, err_msg=name)

    def test_plateau(self, run):
        """Without any progress the rate is halved after more than 3 epochs."""
        rates = run(execution={"scheduler": "plateau", "learning_rate": 1e-12}, epochs=7).rates[::5]
        assert rates == pytest.approx([1e-12] * 5 + [5e-13] * 2, rel=1e-6, abs=0)

    def test_enable_checkpointing(self, run):
        assert not (run(execution={"enable_checkpointing": False}).out / "checkpoints").exists()
        assert len(list((run().out / "checkpoints").iterdir())) == 1

    @pytest.mark.parametrize(("kept", "files"), [(0, 0), (1, 1), (2, 2), (-1, 4)])
    def test_checkpoint_save_top_k(self, run, kept, files):
        done = run(execution={"checkpoint_save_top_k": kept}, epochs=4)
        assert len(list(done.out.glob("checkpoints/*.ckpt"))) == files

    @pytest.mark.parametrize("mode", ["min", "max"])
    @pytest.mark.parametrize("metric", ["val_loss", "train_loss"])
    def test_checkpoint_monitor_and_mode(self, run, metric, mode):
        """The bundle has the weights of the best checkpoint by that metric."""
        execution = {"checkpoint_monitor_metric": metric, "checkpoint_mode": mode, "checkpoint_save_top_k": -1}
        done = run(execution=execution, epochs=4)
        scores = {path: float(path.stem.split(f"{metric}=")[1]) for path in done.out.glob("checkpoints/*.ckpt")}
        best = (min if mode == "min" else max)(scores, key=scores.__getitem__)
        state = training_module.SafetensorsCheckpoints().load_checkpoint(best)["state_dict"]
        for name, value in done.weights.items():
            assert torch.equal(state[f"model.{name}"], value), name

    def test_early_stop_patience(self, run):
        """No progress at all: 1 + patience epochs."""
        done = run(execution={"early_stop_patience": 2, "learning_rate": 1e-12}, epochs=50)
        assert done.summary["training"]["stopped_by"] == "early stopping"
        assert done.summary["training"]["epochs"] == 3

    def test_logger(self, run):
        done = run(execution={"logger_backend": "csv"})
        (metrics,) = done.out.glob("logs/**/metrics.csv")
        rows = list(csv.DictReader(metrics.read_text().splitlines()))
        assert len([row for row in rows if row["val_loss"]]) == 2
        assert not (run(execution={"logger_backend": "none"}).out / "logs").exists()

    def test_logger_that_is_not_installed(self, run, monkeypatch):
        monkeypatch.setitem(sys.modules, "mlflow", None)  # as if it were not
        with pytest.raises(ContractError, match=r"logger\.absent.*") as caught:
            run(execution={"logger_backend": "mlflow"})
        assert "ptycho-torch[mlflow]" in str(caught.value)

    def test_devices_and_strategy(self, run, monkeypatch):
        """Two processes are requested; what they compute is tested in test_processes.py."""
        monkeypatch.setattr(pl.Trainer, "fit", lambda self, *_, **__: (_ for _ in ()).throw(InterruptedError))
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
        seen = []
        init = pl.Trainer.__init__
        monkeypatch.setattr(pl.Trainer, "__init__", lambda self, *a, **k: (init(self, *a, **k), seen.append(self))[0])
        with pytest.raises(InterruptedError):
            run(execution={"devices": 2, "num_nodes": 2, "strategy": "ddp"})
        assert seen[-1].num_devices == 2
        assert seen[-1].num_nodes == 2
        assert seen[-1].world_size == 4
