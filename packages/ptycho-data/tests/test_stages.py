"""What callbacks for progress hear (specs/cli.md, CLI-24, CLI-51)."""

from __future__ import annotations

import numpy as np
import pytest
from ptycho_data.batches import ModuliStream
from ptycho_data.canvas import Sites, canvas_geometry, illumination, scan_sites
from ptycho_data.fitting.loop import fit_loop
from ptycho_data.simulate import simulate
from ptycho_data.stages import Picture, Stages, Watcher, begin, changed, tell
from ptycho_data.workflows import CanvasTask
from ptycho_data.workflows.evaluate import named
from ptycho_data.workflows.levels import Level, continued
from ptycho_data.workflows.prepared_scan import prepare_scan
from ptycho_data.workflows.results import residual_of


class Watch(Watcher):
    """Keeps all that it hears."""

    def __init__(self) -> None:
        self.steps, self.losses, self.pictures = [], [], []

    def __call__(self, stage, done, total, *, loss=None, picture=None):
        self.steps.append((stage, done, total))
        self.losses.append(loss)
        self.pictures.append(None if picture is None else picture())


@pytest.fixture
def watch() -> Watch:
    return Watch()


def picture_of(value: float) -> Picture:
    return Picture(np.full((2, 2), value, np.complex64), np.ones((2, 2), np.float32))


def test_a_plain_callback_hears_three_values_only(watch):
    """Callbacks of notebooks stay as they are."""
    plain = []
    for progress in (None, lambda *report: plain.append(report), watch):
        begin(progress, "training")
        tell(progress, "training", 1, 2, loss=0.5, picture=lambda: picture_of(3))
    assert plain == [("training", 1, 2)]
    assert watch.steps == [("training", 0, 0), ("training", 1, 2)]
    assert watch.losses == [None, 0.5]
    assert watch.pictures[1].object[0, 0] == 3


def test_changed_callbacks_pass_on_loss_picture_and_beginnings(watch):
    """Parts of a whole, and names of parts."""
    plain = []
    assert changed(None, lambda *step: step) is None
    for progress in (watch, lambda *report: plain.append(report)):
        part = named("half a", continued(progress, 10, 30))
        begin(part, "inference")
        tell(part, "inference", 5, 20, loss=0.5, picture=lambda: picture_of(3))
    assert plain == [("half a: inference", 15, 30)]
    assert watch.steps == [("half a: inference", 0, 0), ("half a: inference", 15, 30)]
    assert watch.losses == [None, 0.5]
    assert watch.pictures[1].object[0, 0] == 3


def test_stages_that_are_measured_begin(watch):
    stages = Stages(progress=watch)
    with stages.measure("grouping"):
        pass
    with Stages().measure("grouping"):
        pass
    assert watch.steps == [("grouping", 0, 0)]
    assert stages.seconds.keys() == {"grouping"}


class Numbers:
    """A fit whose loss is the number of its steps."""

    def __init__(self) -> None:
        self.taken = 0

    def step(self, rows, *, factor, positions_move):
        self.taken += 1
        return float(self.taken)

    def parameters(self):
        return {"object": np.full(1, self.taken, np.float32)}


def test_a_fit_tells_each_loss_and_its_object_as_it_is(watch):
    fit = Numbers()
    where = {"indices": np.arange(6), "epochs": 2, "batch_size": 3, "seed": 0}
    fit_loop(fit, **where, progress=watch, picture=lambda: picture_of(fit.taken))
    assert watch.steps == [("reconstruction", step, 4) for step in (1, 2, 3, 4)]
    assert watch.losses == [1.0, 2.0, 3.0, 4.0]
    assert [seen.object[0, 0] for seen in watch.pictures] == [1, 2, 3, 4]


def test_a_fit_that_ends_early_reports_what_it_did(watch, monkeypatch):
    """Never up to all steps."""
    now = iter(range(100))
    monkeypatch.setattr("ptycho_data.fitting.loop.time", type("T", (), {"monotonic": staticmethod(lambda: next(now))}))
    fit = Numbers()
    fit_loop(fit, indices=np.arange(6), epochs=100, batch_size=3, seed=0, progress=watch, max_seconds=5)
    assert watch.steps[-1] == ("reconstruction", fit.taken, 200)
    assert fit.taken < 10


@pytest.fixture(scope="module")
def scan():
    return simulate(N=32, n_patterns=20, step_px=4.0, seed=1)


def test_the_object_of_passes_over_a_canvas(scan, watch):
    """Copied when it is asked for, with the light of the used patterns."""
    stream = ModuliStream(scan, [np.arange(5), np.arange(5, 9)], passes=1, mean_counts=1e4, progress=watch)
    sites: Sites = scan_sites(scan.positions_px, canvas_geometry(scan.positions_px, 32), 32)
    task = CanvasTask(moduli=stream, sites=sites, subsets=[], light=lambda: np.ones(sites.shape, np.float32))
    state = {"object": 1.0}
    task.show(lambda: np.full(sites.shape, state["object"], np.complex64))
    with stream:
        stream.read(0)
        state["object"] = 2.0
        stream.read(1)
    assert [seen.object[0, 0] for seen in watch.pictures] == [1, 2]
    assert watch.pictures[0].weight.shape == sites.shape


def test_a_level_knows_its_light(scan):
    prepared = prepare_scan(scan, None, 0)
    level = Level.of(prepared, scan.probe, 32)
    np.testing.assert_array_equal(level.light, illumination(scan.probe, prepared.sites[prepared.used]))
    assert level.task(prepared, passes=1).light() is level.light


def test_residuals_count_patterns(scan, watch):
    """Of used and held-out patterns, as one count up to all."""
    prepared, read = prepare_scan(scan, 0.25, 0), []

    class Reads:
        def residual(self, source, object_, probe, sites, indices, *, device, background):
            assert (source.N, len(source)) == (32, 20)
            for part in np.array_split(indices, 2):
                read.append(source.counts(part))
            return "R"

    residual = residual_of(Reads(), prepared, np.ones(1), scan.probe, device="cpu", progress=watch)
    assert [residual(part) for part in (prepared.used, prepared.held_out)] == ["R", "R"]
    assert watch.steps == [("residuals", done, 20) for done in (8, 15, 18, 20)]
    np.testing.assert_array_equal(np.concatenate(read[:2]), scan.counts(prepared.used))


def test_patterns_that_are_compared_twice_count_once(scan, watch):
    """The time is estimated from a few of them first."""
    prepared = prepare_scan(scan, None, 0)

    class Reads:
        def residual(self, source, object_, probe, sites, indices, *, device, background):
            source.counts(indices)

    residual = residual_of(Reads(), prepared, np.ones(1), scan.probe, device="cpu", progress=watch)
    for part in (prepared.used[::4], prepared.used[::4], prepared.used[:10], prepared.used):
        residual(part)
    assert [done for _, done, _ in watch.steps] == [5, 5, 12, 20]
