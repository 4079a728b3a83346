"""One deadline for a run, whose stages take parts of what is left (specs/training.md, TIME); no test waits."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ptycho_contracts.config import ExecutionConfig, ReconstructionConfig, TrainingConfig
from ptycho_data.deadline import Deadline, TimeOver
from ptycho_data.fitting import FarFieldResidual, JointFit
from ptycho_data.fitting.loop import History
from ptycho_data.fitting.probe_estimation import training_probe
from ptycho_data.simulate import simulate
from ptycho_data.stages import Stages, Watcher, begin, tell
from ptycho_data.workflows.calibration import solver
from ptycho_data.workflows.prepared_scan import prepare_scan
from ptycho_data.workflows.reconstruct import reconstruct
from ptycho_data.workflows.summary import residuals, spread

SCAN = replace(simulate(N=32, n_patterns=100, step_px=3.0, photons_per_pattern=1e6, seed=1), probe=None)
EXECUTION = ExecutionConfig(enable_progress_bar=False)


class Ticks:
    """A clock that work moves on."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Working:
    """A backend whose work takes a second for each unit of it, and gives the object empty space."""

    name = "working"

    def __init__(self, *, seconds_per_step: float, seconds_per_residual: float = 0.0) -> None:
        self.clock, self.step, self.residual_s = Ticks(), seconds_per_step, seconds_per_residual
        self.stages: list[tuple[str, int, float | None]] = []
        self.compared: list[np.ndarray] = []

    def versions(self):
        return {}

    def device(self, execution, *, training=False):
        return "cpu"

    def joint_fit(self, source, sites, probe, *, indices, epochs, stage, max_seconds=None, progress=None, **options):
        """As many steps as there is time for, at least one (PHY-31)."""
        steps = math.ceil(len(indices) / options["batch_size"])
        began, done, stopped = self.clock.now, 0, "epochs"
        while done < epochs * steps:
            if done and max_seconds is not None and self.clock.now - began >= max_seconds:
                stopped = "max_seconds"
                break
            self.clock.now += self.step
            done += 1
            if progress is not None:
                progress(stage, done, epochs * steps)
        self.stages.append((stage, done, max_seconds))
        losses = (0.5,) * max(1, done // steps)
        nothing = np.zeros((sites.N, sites.N), np.float32)
        history = History(losses=losses, stopped_by=stopped)
        return JointFit(np.ones(sites.shape, np.complex64), probe, losses, np.zeros((len(sites), 2)), nothing, history)

    def passes_on_canvas(self, probe, task, schedule):
        for _ in range(schedule.passes):
            for number in range(len(task.subsets)):
                task.moduli.read(number)
                self.clock.now += self.step
        return np.full(task.sites.shape, 0.5, np.complex64)

    def residual(self, source, object_, probe, sites, indices, **_):
        self.clock.now += self.residual_s * len(indices)
        self.compared.append(np.asarray(indices))
        return FarFieldResidual(0.25, 0.2, np.ones(len(indices)), np.ones(len(indices)))


def run(backend: Working, limit: float, *, scan=SCAN, **options):
    began = backend.clock.now
    _, summary = reconstruct(
        backend,
        scan,
        config=ReconstructionConfig(**{"epochs": 10_000_000, "max_seconds": limit, **options}),
        execution_config=EXECUTION,
        deadline=Deadline(limit, clock=backend.clock),
    )
    return backend.clock.now - began, summary


@pytest.mark.parametrize("seconds_per_step", [0.01, 0.05, 0.5])
@pytest.mark.parametrize("limit", [10.0, 100.0, 3000.0])
@pytest.mark.parametrize("probe", [None, "guess"])
def test_a_reconstruction_ends_in_time(limit, seconds_per_step, probe):
    """TIME-1, whatever a step takes, with a search for the probe or without; the time is used, too."""
    backend = Working(seconds_per_step=seconds_per_step, seconds_per_residual=seconds_per_step / 30)
    scan = SCAN if probe is None else replace(SCAN, probe=simulate(N=32, n_patterns=4, step_px=3.0, seed=1).probe)
    taken, summary = run(backend, limit, scan=scan)
    assert summary["stopped_by"] == "max_seconds"
    assert 0.85 * limit <= taken <= 1.1 * limit
    stages = {stage for stage, _, _ in backend.stages}
    assert "reconstruction" in stages
    if probe is None:
        assert summary["probe"]["search"]["losses"]
    if limit == 3000 and seconds_per_step == 0.01:
        assert summary["shortened"] == []
        assert len(backend.compared[-2]) == len(SCAN)
    if limit == 10 and seconds_per_step == 0.5:
        assert any("probe search" in words for words in summary["shortened"]) == (probe is None)
        assert any("coarse levels" in words for words in summary["shortened"])


def test_without_a_limit_nothing_is_shortened():
    """And the clock is not asked: the same summary as ever, with an empty list."""
    backend = Working(seconds_per_step=1.0)
    _, summary = reconstruct(
        backend, SCAN, config=ReconstructionConfig(epochs=2), execution_config=EXECUTION, deadline=None
    )
    assert summary["shortened"] == []
    assert [stage for stage, _, _ in backend.stages][-1] == "reconstruction"
    assert len(summary["probe"]["search"]["losses"]) >= 15


@pytest.mark.parametrize("seconds_per_step", [0.001, 0.2, 3.0])
def test_the_probe_of_a_training_takes_its_part(seconds_per_step):
    """TIME-2: search and calibration together leave almost half of the time for the training."""
    backend, limit = Working(seconds_per_step=seconds_per_step, seconds_per_residual=seconds_per_step / 16), 100.0
    until = Deadline(limit, clock=backend.clock)
    _, facts = training_probe(
        solver(backend, "cpu"),
        SCAN,
        SCAN,
        np.arange(len(SCAN)),
        {0: 1e6},
        modes=1,
        training=TrainingConfig(max_seconds=limit),
        stages=Stages(),
        deadline=until,
    )
    assert until.left() > 0.35 * limit
    shortened = seconds_per_step > 0.01
    assert any("probe search" in words for words in until.shortened) == shortened
    assert any("calibration" in words for words in until.shortened) == (facts["epochs"] < 15)
    assert facts["calibration"]["judged"] == (100 if seconds_per_step < 1 else 16)
    assert facts["search"]["losses"]


@given(st.integers(1, 400), st.integers(0, 100), st.floats(1e-3, 1.0), st.floats(0.0, 100.0))
def test_the_residual_is_that_of_as_many_patterns_as_there_is_time_for(used, held, cost, limit):
    """TIME-2: all of them if possible; else spread evenly, in the same proportion; the trial's 16 in any case."""
    clock, compared = Ticks(), []
    scan = SimpleNamespace(
        used=np.arange(used), held_out=np.arange(used, used + held), positions_px=np.zeros((used + held, 2))
    )

    def residual(indices):
        compared.append(indices)
        clock.now += cost * len(indices)
        return FarFieldResidual(0.25, 0.2, np.ones(len(indices)), np.ones(len(indices)))

    until = Deadline(limit, clock=clock)
    residuals(scan, residual, deadline=until)
    *trials, chosen, others = compared
    assert len(trials) <= 2
    assert set(chosen) <= set(scan.used)
    assert set(others) <= set(scan.held_out)
    if len(chosen) == used:
        assert (len(others) == held) == (until.shortened == [])
    else:
        assert until.shortened == [f"residual: of {len(chosen) + len(others)} of {used + held} patterns, spread evenly"]
        gaps = np.diff(chosen)
        assert gaps.max(initial=0) - gaps.min(initial=used) <= 1
    assert clock.now - 1000.0 <= max(limit, 0.0) + cost * (2 * 16 + 16 + 2)


@given(st.floats(0.0, 1e6), st.floats(0.0, 1.0), st.floats(0.0, 1e6), st.floats(0.0, 1e6))
def test_parts(seconds, fraction, later, kept):
    """Never later than the whole; what comes after has at most half of what is left."""
    clock = Ticks()
    whole = Deadline(seconds, clock=clock)
    clock.now += later
    left = whole.left()
    assert left == pytest.approx(seconds - later, abs=1e-6)
    part, before = whole.part(fraction), whole.keeping(kept)
    assert part.left() <= left + 1e-6
    assert part.left() == pytest.approx(fraction * left if left > 0 else left, abs=1e-3)
    assert before.left() == pytest.approx(left - min(kept, max(left, 0) / 2), abs=1e-3)
    assert part.part(0.5).left() <= part.left() + 1e-6
    assert whole.over == (left <= 0)
    assert whole.max_seconds() > 0
    part.note("one")
    assert before.shortened == whole.shortened == ["one"]


def test_no_limit():
    free = Deadline()
    assert not free.limited
    assert not free.over
    assert free.part(0.1).left() == free.keeping(5.0).left() == math.inf
    assert free.max_seconds() is None
    assert free.affordable(7, lambda _: pytest.fail("no trial")) == 7
    assert free.watched(None) is None


def test_watched_work_ends_when_its_time_is_over():
    """After the step that was reported, and not if that was the last one."""
    clock, seen = Ticks(), []
    watched = Deadline(2.0, clock=clock).watched(lambda *report: seen.append(report))
    watched("work", 1, 3)
    clock.now += 2.5
    with pytest.raises(TimeOver):
        watched("work", 2, 3)
    watched("work", 3, 3)
    assert [done for _, done, _ in seen] == [1, 2, 3]


def test_watched_work_is_heard_as_any_other():
    """With its beginning, loss and picture; the beginning of a stage does not end the work."""
    heard = []

    class Watch(Watcher):
        def __call__(self, stage, done, total, *, loss=None, picture=None):
            heard.append((stage, done, total, loss, picture))

    clock, picture = Ticks(), object()
    watched = Deadline(2.0, clock=clock).watched(Watch())
    tell(watched, "work", 1, 3, loss=0.5, picture=picture)
    clock.now += 2.5
    begin(watched, "more")
    assert heard == [("work", 1, 3, 0.5, picture), ("more", 0, 0, None, None)]
    with pytest.raises(TimeOver):
        tell(Deadline(-1.0, clock=clock).watched(None), "work", 1, 3, loss=0.5)


@given(st.integers(1, 200), st.integers(0, 300))
def test_spread(size, count):
    """Distinct, with first and last, ascending."""
    chosen = spread(np.arange(10, 10 + size), count)
    assert len(chosen) == len(set(chosen.tolist())) == min(size, count)
    assert (np.diff(chosen) > 0).all()
    if count >= 2:
        assert (chosen[0], chosen[-1]) == (10, 9 + size)


def test_prepared_scans_are_what_residuals_take():
    """The stand-in above has the names that are read."""
    prepared = prepare_scan(SCAN, None, 0)
    assert {"used", "held_out", "positions_px"} <= set(dir(prepared))
