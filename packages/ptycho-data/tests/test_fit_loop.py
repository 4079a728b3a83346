"""Order, schedule, validation, stopping and resuming of a fit (PHY-27 to PHY-32), with one of three lines."""

from __future__ import annotations

import json
import math
import signal
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ptycho_contracts.problems import ContractError, WorkFailedError
from ptycho_data import tensor_files
from ptycho_data.canvas import canvas_geometry, scan_sites
from ptycho_data.fitting import Prior, loop
from ptycho_data.fitting.checkpoints import Checkpoints
from ptycho_data.fitting.joint import JointProblem, joint_facts
from ptycho_data.fitting.loop import fit_loop
from ptycho_data.grouping.selection import validation_indices
from ptycho_data.signals import Interrupted
from ptycho_data.simulate import simulate


class MeanFit:
    """The mean of some numbers by momentum: one parameter, one pattern a number."""

    def __init__(self, targets, *, after=None) -> None:
        self.targets, self.after = np.asarray(targets, np.float32), after
        self.value, self.velocity, self.taken = np.zeros(1, np.float32), np.zeros(1, np.float32), 0
        self.factors, self.rows, self.moves = [], [], []

    def step(self, rows, *, factor, positions_move):
        before = self.loss(rows)
        self.velocity = np.float32(0.5) * self.velocity + (self.value - self.targets[rows].mean())
        self.value = self.value - np.float32(0.3 * factor) * self.velocity
        self.taken += 1
        self.factors.append(factor)
        self.rows.append(rows)
        self.moves.append(positions_move)
        if self.after is not None:
            self.after(self)
        return before

    def loss(self, rows):
        return float(((self.value - self.targets[rows]) ** 2).mean())

    def parameters(self):
        return {"object": self.value.copy()}

    def restore(self, parameters):
        self.value = parameters["object"].copy()

    def moments(self):
        return {"object": (self.velocity.copy(), self.velocity**2, self.taken)} if self.taken else {}

    def restore_moments(self, moments):
        self.velocity, _, self.taken = moments["object"]


PATTERNS = np.arange(10)


def fitted(fit, *, indices=PATTERNS, epochs=6, batch_size=4, seed=0, **options):
    return fit_loop(fit, indices=indices, epochs=epochs, batch_size=batch_size, seed=seed, **options)


class Ticks:
    """A clock that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Ticks:
    """The wall clock of fits and checkpoints."""
    ticks = Ticks()
    monkeypatch.setattr(loop.time, "monotonic", ticks)
    return ticks


def keeping(path, **options) -> Checkpoints:
    """A checkpoint after every epoch: by its clock, each look comes at a hundred times the hour of the one before."""
    looks = iter(range(150))
    return Checkpoints(path, {}, clock=lambda: 100.0 ** next(looks), **options)


@given(patterns=st.integers(1, 30), batch_size=st.integers(1, 40), epochs=st.integers(1, 5), seed=st.integers(0, 99))
def test_order_and_rates(patterns, batch_size, epochs, seed):
    """PHY-27: each epoch takes each pattern once, in the order of its own generator; rates fall by a half cosine."""
    fit, indices = MeanFit(np.zeros(60)), np.arange(patterns) * 2
    result = fitted(fit, indices=indices, epochs=epochs, batch_size=batch_size, seed=seed)
    batches = math.ceil(patterns / batch_size)
    assert len(fit.rows) == epochs * batches
    for epoch in range(epochs):
        mine = fit.rows[epoch * batches : (epoch + 1) * batches]
        order = np.random.default_rng((seed, epoch)).permutation(indices)
        assert [set(rows) for rows in mine] == [set(part) for part in np.array_split(order, batches)]
        assert max(map(len, mine)) - min(map(len, mine)) <= 1
    fractions = np.arange(epochs * batches) / (epochs * batches)
    np.testing.assert_allclose(fit.factors, 0.02 + 0.98 * (1 + np.cos(np.pi * fractions)) / 2)
    assert fit.moves == [fraction >= 0.1 for fraction in fractions]
    assert (len(result.losses), result.stopped_by, result.best_epoch, result.val_losses) == (epochs, "epochs", None, ())


def test_the_epoch_of_the_lowest_validation_loss_is_returned():
    """PHY-30: fitted to 1, validated by 0.3, the best is on the way, not at the end."""
    targets = np.array([1.0] * 10 + [0.3] * 3)
    validating = np.array([12, 10, 11])
    seen = []
    fit = MeanFit(targets, after=lambda fit: seen.append(float(fit.value[0])))
    result = fitted(fit, validation=validating, epochs=12, batch_size=10)
    expected = [(value - np.float32(0.3)) ** 2 for value in seen]
    np.testing.assert_allclose(result.val_losses, expected, rtol=1e-5)
    assert result.best_epoch == 1 + int(np.argmin(expected)) < 12
    assert fit.value == pytest.approx(seen[result.best_epoch - 1])
    assert (result.stopped_by, len(result.losses)) == ("epochs", 12)
    assert not set(validating) & set(np.concatenate(fit.rows))
    blind = MeanFit(targets)
    fitted(blind, epochs=12, batch_size=10)
    assert blind.value == pytest.approx(seen[-1])


@pytest.mark.parametrize("patience", [1, 2, 5])
def test_patience_counts_epochs_without_a_lower_loss(patience):
    """PHY-31: the best epoch is the same, and as many more are taken."""
    targets = np.array([1.0] * 10 + [0.3])
    options = {"validation": np.array([10]), "epochs": 40, "batch_size": 10}
    free, stopped = fitted(MeanFit(targets), **options), fitted(MeanFit(targets), patience=patience, **options)
    assert stopped.stopped_by == "early stopping"
    assert stopped.best_epoch == next(
        number
        for number, value in enumerate(free.val_losses, 1)
        if min(free.val_losses[number : number + patience]) >= value
    )
    assert len(stopped.losses) == len(stopped.val_losses) == stopped.best_epoch + patience
    assert stopped.val_losses == free.val_losses[: len(stopped.val_losses)]


def test_the_earliest_of_equals_is_the_best():
    """PHY-30: a fit that does not move has its first epoch for the best."""
    fit = MeanFit(np.zeros(4))
    assert fitted(fit, indices=np.arange(3), validation=np.array([3]), epochs=5).best_epoch == 1


def test_the_clock_ends_the_schedule(clock):
    """PHY-27: rates follow the clock if it is ahead of the steps; an epoch that is cut short is validated, too."""

    def tick(fit):
        clock.now += 1.0

    fit = MeanFit(np.ones(11), after=tick)
    result = fitted(fit, epochs=100, batch_size=4, max_seconds=10.0, validation=np.array([10]))
    assert result.stopped_by == "max_seconds"
    assert (fit.taken, len(result.losses), len(result.val_losses)) == (10, 3, 4)
    np.testing.assert_allclose(fit.factors, 0.02 + 0.98 * (1 + np.cos(np.pi * np.arange(10) / 10)) / 2)
    fit = MeanFit(np.ones(10), after=tick)
    slow = fitted(fit, epochs=100, batch_size=4, max_seconds=1.5, validation=np.array([9]))
    assert (slow.stopped_by, fit.taken) == ("max_seconds", 2)
    assert (len(slow.losses), slow.best_epoch) == (1, 1)  # of the steps that there was time for
    assert (
        slow.losses[0] < fitted(MeanFit(np.ones(10), after=tick), epochs=100, batch_size=4, max_seconds=0.5).losses[0]
    )


@pytest.mark.parametrize("where", ["fit", "validation", "last step"])
def test_what_is_not_finite_is_an_error(where, clock):
    """PHY-29."""
    targets = np.full(11, np.nan if where == "fit" else 1.0)
    targets[10] = np.nan if where == "validation" else 1.0

    def after(fit):
        clock.now += 1.0
        if where == "last step" and fit.taken == 5:
            fit.value = fit.value * np.float32(np.inf)

    with pytest.raises(WorkFailedError, match=r"descent\.diverged"):
        fitted(
            MeanFit(targets, after=after), max_seconds=5.0, validation=np.array([10]) if where == "validation" else None
        )


class Killed(BaseException):
    """The process is gone."""


@given(
    dies=st.integers(1, 23),
    epochs=st.integers(2, 6),
    validated=st.booleans(),
    patience=st.none() | st.integers(1, 3),
    seed=st.integers(0, 9),
)
def test_resumed_is_as_if_never_interrupted(tmp_path_factory, dies, epochs, validated, patience, seed):
    """PHY-32: killed at any step, resumed from the last checkpoint: the same bits, losses and best epoch."""
    path = tmp_path_factory.mktemp("run") / "joint_fit.safetensors"
    targets = np.random.default_rng(seed).normal(size=14)
    options = {
        "epochs": epochs,
        "seed": seed,
        "patience": patience,
        "validation": np.arange(10, 14) if validated else None,
    }
    whole = MeanFit(targets)
    expected = fitted(whole, **options)

    def kill(fit):
        if fit.taken == dies:
            raise Killed

    with suppress(Killed):
        fitted(MeanFit(targets, after=kill), checkpoints=keeping(path), **options)
    epochs_kept = min((dies - 1) // 3, len(expected.losses))
    assert path.exists() == (epochs_kept > 0)
    if not epochs_kept:
        return
    other, steps = MeanFit(targets), []
    result = fitted(
        other, checkpoints=keeping(path, resume=True), progress=lambda *reported: steps.append(reported[1]), **options
    )
    np.testing.assert_array_equal(other.value, whole.value)
    assert (result.losses, result.val_losses, result.best_epoch, result.stopped_by) == (
        expected.losses,
        expected.val_losses,
        expected.best_epoch,
        expected.stopped_by,
    )
    assert result.resumed_from_epoch == epochs_kept
    assert steps == list(range(3 * epochs_kept + 1, 3 * len(expected.losses) + 1))


@pytest.mark.parametrize("limit", [10.0, 4.0])
def test_the_schedule_continues_where_it_was(tmp_path, clock, limit):
    """PHY-32: 6 seconds are over at the last checkpoint; the run that resumes has its own, and goes on in between."""

    def tick(fit):
        clock.now += 1.0
        if fit.taken == 8:
            raise Killed

    options = {"epochs": 100, "max_seconds": 10.0}
    with pytest.raises(Killed):
        fitted(MeanFit(np.ones(10), after=tick), checkpoints=keeping(tmp_path / "c"), **options)
    clock.now += 1e6
    fit = MeanFit(np.ones(10), after=lambda fit: setattr(clock, "now", clock.now + 1.0))
    options["max_seconds"] = limit
    result = fitted(fit, checkpoints=keeping(tmp_path / "c", resume=True), **options)
    assert (result.resumed_from_epoch, result.stopped_by, len(fit.rows)) == (2, "max_seconds", int(limit))
    done = (6 + np.arange(limit)) / (6 + limit)
    np.testing.assert_allclose(fit.factors, 0.02 + 0.98 * (1 + np.cos(np.pi * done)) / 2)


def test_checkpoints_cost_at_most_a_twentieth(tmp_path, monkeypatch):
    """CKP-4: one takes 3 s to write, an epoch 10 s; none in the first 2 s, then one every 60 s or more."""
    clock = Ticks()

    save = tensor_files.save_file

    def slow(tensors, path, metadata):
        clock.now += 3.0
        save(tensors, path, metadata=metadata)

    def epoch(fit):
        clock.now += 10.0

    monkeypatch.setattr("ptycho_data.tensor_files.save_file", slow)
    keeper = Checkpoints(tmp_path / "c", {}, clock=clock)
    result = fitted(MeanFit(np.ones(10), after=epoch), epochs=30, batch_size=10, checkpoints=keeper)
    assert result.checkpoints_written == 1 + 290 // 63
    quick = Checkpoints(tmp_path / "d", {}, clock=clock)
    assert fitted(MeanFit(np.ones(10)), checkpoints=quick).checkpoints_written == 0
    assert not (tmp_path / "d").exists()


def test_a_checkpoint_of_another_fit_is_refused(tmp_path):
    """CKP-6: parameters of other names or sizes, although the facts agree."""
    fitted(MeanFit(np.ones(10)), checkpoints=keeping(tmp_path / "c"))

    class Larger(MeanFit):
        def parameters(self):
            return {"object": np.zeros(2, np.float32)}

    with pytest.raises(ContractError, match=r"checkpoint\.broken"):
        fitted(Larger(np.ones(10)), checkpoints=keeping(tmp_path / "c", resume=True))


FACTS = {
    "held-out pattern": False,
    "fitted pattern": True,
    "validation": True,
    "bad pixel": True,
    "site": True,
    "probe": True,
    "role": True,
    "option": True,
}


@pytest.mark.parametrize("change", FACTS)
def test_whose_state_it_is(change):
    """CKP-5: facts change with everything that changes the fit, and with nothing else."""
    scan = simulate(N=16, n_patterns=12, step_px=2.0, seed=3)
    counts, bad = np.array(scan.measurements), np.zeros((16, 16), bool)
    indices, validating = np.arange(2, 9), np.arange(9, 12)
    sites, probe = scan_sites(scan.positions_px, canvas_geometry(scan.positions_px, 16), 16), np.array(scan.probe)
    options = {"epochs": 3}

    def facts():
        class Source:
            N, scan_index, bad_pixels = 16, scan.scan_index, bad

            def __len__(self):
                return 12

            def counts(self, rows):
                return counts[rows].astype(np.float32)

        problem = JointProblem(
            Source(), sites, probe, np.ones(sites.shape, np.complex64), 1e5, "amplitude", (0.02, 0.02, 0.0, 0.0)
        )
        return joint_facts(problem, indices, validating, **options)

    before = facts()
    assert before == facts() == json.loads(json.dumps(before))
    if change.endswith("pattern"):
        counts[0 if change.startswith("held") else 2] += 1
    elif change == "validation":
        counts[11] += 1
    elif change == "bad pixel":
        bad[3, 3] = True
    elif change == "site":
        sites.fractions_yx[5, 1] += 1e-6
    elif change == "probe":
        probe[0, 8, 8] *= 1.0001
    elif change == "role":
        indices, validating = np.arange(2, 8), np.arange(8, 12)
    else:
        options = {"epochs": 4}
    assert (facts() != before) == FACTS[change]


class TestValidationIndices:
    @given(M=st.integers(2, 80), fraction=st.floats(0, 0.5), seed=st.integers(0, 9), data=st.data())
    def test_parts(self, M, fraction, seed, data):
        """PHY-30: disjoint, together all that is used, at least one validation pattern if any is requested."""
        used = np.sort(np.array(data.draw(st.lists(st.integers(0, 99), min_size=M, max_size=M, unique=True))))
        count = max(1, round(fraction * M)) if fraction else 0
        fitted, validating = validation_indices(used, fraction, seed)
        assert sorted([*fitted, *validating]) == list(used)
        assert len(validating) == count
        if count:
            assert set(validating) == set(np.random.default_rng(seed).permutation(used)[:count])

    def test_none_left_to_fit(self):
        with pytest.raises(ContractError, match=r"val_fraction: .*selection\.no_fit"):
            validation_indices(np.array([7]), 0.1, 0)


class GuidedFit(MeanFit):
    """Notes when its prior is set, and has given validation losses."""

    def __init__(self, losses=()) -> None:
        super().__init__(np.zeros(10))
        self.given, self.set_at = list(losses), []

    def set_prior(self, fraction):
        self.set_at.append((self.taken, fraction))

    def loss(self, rows):
        return self.given.pop(0) if self.given and len(rows) == 3 else 1.0


PRIOR = Prior("network", photons=1e4, photons_per_px=10.0)


def test_a_prior_acts_anew_at_the_start_and_in_the_middle_of_every_epoch():
    """PRI-8: also where a fit may resume."""
    fit = GuidedFit()
    fitted(fit, epochs=2, batch_size=2, prior=PRIOR)
    assert [taken for taken, _ in fit.set_at] == [0, 3, 5, 8]
    assert [fraction for _, fraction in fit.set_at] == pytest.approx([0, 0.3, 0.5, 0.8])
    none = GuidedFit()
    fitted(none, epochs=2, batch_size=2)
    assert none.set_at == []


@pytest.mark.parametrize(("last", "best"), [(0.97, 10), (0.99, 7)])
def test_an_epoch_without_the_prior_must_be_clearly_better(last, best):
    """PRI-12: after 80 % of the epochs; below .98 of the lowest loss before."""
    losses = [2.0] * 6 + [1.0, 1.1, 1.0, last]
    options = {"indices": PATTERNS[:7], "epochs": 10, "batch_size": 7, "validation": PATTERNS[7:]}
    assert fitted(GuidedFit(losses), prior=replace(PRIOR, judged=True), **options).best_epoch == best
    assert fitted(GuidedFit(losses), prior=PRIOR, **options).best_epoch == 10


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_fit_after_its_present_step(number, clock, tmp_path):
    """TRN-17: what was kept is told; nothing is kept without a checkpoint."""

    def after(fit):
        clock.now += 100
        if fit.taken == 8:  # the second of three steps of the third epoch
            signal.raise_signal(number)
            fit.whole_steps = fit.taken

    for keeps in (True, False):
        fit = MeanFit(np.arange(10), after=after)
        kept = Checkpoints(tmp_path / "some", {}, clock=clock) if keeps else None
        with pytest.raises(Interrupted) as caught:
            fitted(fit, checkpoints=kept)
        assert caught.value.number == number
        assert fit.taken == fit.whole_steps == 8
        words = f"the state after epoch 2 is {tmp_path / 'some'}: `resume` continues from there"
        assert caught.value.kept == (words if keeps else "")
    resumed = Checkpoints(tmp_path / "some", {}, resume=True, clock=clock)
    assert fitted(MeanFit(np.arange(10)), checkpoints=resumed).resumed_from_epoch == 2
