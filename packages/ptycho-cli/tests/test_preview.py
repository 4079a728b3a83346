"""The picture that is renewed while a run works (specs/cli.md, CLI-51)."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from ptycho_cli.main import main
from ptycho_cli.output import preview as module
from ptycho_cli.output.preview import MARK, PREVIEW, Preview
from ptycho_cli.output.stage_words import Stage
from ptycho_cli.plots import progress as plots
from ptycho_contracts.problems import ContractError
from ptycho_data.stages import Picture, tell


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def drawn(monkeypatch, clock):
    """Arguments of each drawing, which takes as many seconds as the test says."""
    calls: list[tuple] = []

    def draw(picture, losses, title, path, *, mark):
        calls.append((picture, list(losses), title))
        clock.now += draw.seconds
        path.write_bytes(mark.encode() + bytes([len(calls)]))

    draw.seconds = 0.0
    monkeypatch.setattr(plots, "draw_preview", draw)
    calls_and = type("Drawn", (), {"calls": calls, "draw": draw})
    return calls_and


def picture() -> Picture:
    return Picture(np.ones((8, 8), np.complex64), np.ones((8, 8), np.float32))


def stage(step: int = 1, loss: float | None = 0.5) -> Stage:
    made = Stage("reconstruction", began=0.0)
    made.hear("reconstruction", step, 100, 0.0)
    made.loss, made.loss_step = loss, step
    return made


@pytest.mark.parametrize(("seconds", "times"), [(0.0, [2, 12, 22, 32]), (1.0, [2, 23])])
def test_the_first_after_two_seconds_then_every_ten_at_most(tmp_path, clock, drawn, seconds, times):
    """Slow drawing waits longer: at most 5 % of the time."""
    drawn.draw.seconds = seconds
    preview, found = Preview(tmp_path, clock=clock), []
    for second in range(41):
        clock.now = max(clock.now, float(second))
        before = len(drawn.calls)
        preview.draw(stage(1 + second), picture)
        if len(drawn.calls) > before:
            found.append(second)
    assert found == times
    assert len(drawn.calls[-1][1]) == times[-1] + 1


def test_no_copy_is_asked_for_in_between(tmp_path, clock, drawn):
    preview, asked = Preview(tmp_path, clock=clock), []

    def copy():
        asked.append(clock.now)
        return picture()

    for second in range(12):
        clock.now = float(second)
        preview.draw(stage(1 + second), copy)
    assert asked == [2.0]


def test_nothing_to_draw(tmp_path, clock, drawn):
    preview = Preview(tmp_path, clock=clock)
    for second in range(20):
        clock.now = float(second)
        assert not preview.draw(stage(loss=None), None)
    assert not drawn.calls


def test_it_is_replaced_in_one_step_and_removed(tmp_path, clock, drawn, monkeypatch):
    """A reader sees the old or the new one; a disk that is full leaves the old one and does not end the work."""
    preview = Preview(tmp_path, clock=clock)
    preview.draw(stage(), picture)
    for number in (1, 2):
        clock.now += 11
        assert preview.draw(stage(number), picture) == (number == 1)
        assert preview.path.read_bytes()[-1] == number
        assert [path.name for path in tmp_path.iterdir()] == [PREVIEW]

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    def empty(*_: object, **__: object) -> None:
        raise ValueError("attempt to get argmin of an empty sequence")

    for failure in (full, empty):  # the second as of an object of NaN: the work itself says that it diverged
        monkeypatch.setattr(plots, "draw_preview", failure)
        clock.now += 11
        assert not preview.draw(stage(3), picture)
        assert preview.path.read_bytes()[-1] == 2
    preview.remove()
    assert list(tmp_path.iterdir()) == []


def test_somebody_elses_picture_stays(tmp_path):
    (tmp_path / PREVIEW).write_bytes(b"mine")
    with pytest.raises(ContractError, match=r"output\.exists"):
        Preview(tmp_path)
    (tmp_path / PREVIEW).write_bytes(b"\x89PNG " + MARK.encode())
    Preview(tmp_path).remove()
    assert not (tmp_path / PREVIEW).exists()  # left by a run that was killed


@pytest.mark.parametrize("parts", ["object", "loss", "both"])
def test_the_drawing(tmp_path, parts):
    """Small also for a large object, and marked as ours."""
    weight = np.zeros((1500, 900), np.float32)
    weight[300:1200, 300:600] = 1
    image = Picture(np.exp(1j * weight).astype(np.complex64), weight)
    losses = [] if parts == "object" else [(1, 0.5), (2, 0.25)]
    path = tmp_path / "a.png"
    plots.draw_preview(None if parts == "loss" else image, losses, "training: 1/2 steps", path, mark=MARK)
    content = path.read_bytes()
    width, height = struct.unpack(">II", content[16:24])
    assert width <= 1100
    assert height <= 350
    assert MARK.encode() in content[:4096]


def test_it_is_cropped_to_what_was_scanned(monkeypatch):
    """As the final pictures are (CLI-23): the box of the lit pixels, whatever lies outside."""
    shown = []
    monkeypatch.setattr(plots, "draw_map", lambda _f, axes, values, limits, **_: shown.append((values, limits)))
    weight = np.zeros((40, 50), np.float32)
    weight[10:30, 20:45] = 2.0
    image = np.full((40, 50), 1e6, np.complex64)
    image[10:30, 20:45] = np.linspace(1, 2, 25)
    monkeypatch.setattr(plots.Figure, "savefig", lambda *_, **__: None)
    plots.draw_preview(Picture(image, weight), [], "title", Path("unused"), mark=MARK)
    (amplitude, limits), (phase, _) = shown
    assert amplitude.shape == phase.shape == (20, 25)
    assert 1 <= limits[0] < limits[1] <= 2


class TestCommands:
    @pytest.fixture(autouse=True)
    def seen(self, backend, monkeypatch, tmp_path):
        """Previews that were there while the work went on, and what the backend reports."""
        monkeypatch.setattr(module, "FIRST_SECONDS", 0.0)
        there = []

        def work(progress):
            tell(progress, "working", 1, 2, loss=0.5, picture=picture)
            there.append(sorted(path.name for path in (tmp_path / "out").iterdir()))
            tell(progress, "working", 2, 2, loss=0.25, picture=picture)
            if backend.error is not None:
                raise backend.error

        monkeypatch.setattr(backend, "_work", work)
        return there

    @pytest.mark.parametrize("command", ["reconstruct", "infer", "train"])
    @pytest.mark.parametrize("quiet", [False, True])
    def test_it_is_there_during_the_work_only(self, data_file, tmp_path, capsys, seen, command, quiet):
        """It belongs to no set of results."""
        words = [command, *(["pretrained"] if command == "infer" else []), str(data_file)]
        words += ["--output-dir", str(tmp_path / "out"), "--preview", *(["--quiet"] if quiet else [])]
        assert main(words) == 0
        assert PREVIEW in seen[0]
        assert not (tmp_path / "out" / PREVIEW).exists()
        assert PREVIEW not in (tmp_path / "out" / "summary.json").read_text().replace("--preview", "")
        captured = capsys.readouterr()
        assert (captured.err == "") == quiet
        assert (f"preview: {tmp_path / 'out' / PREVIEW}" in captured.err) != quiet

    def test_it_goes_with_a_run_that_fails(self, backend, data_file, tmp_path, capsys, seen, work_failed):
        backend.error = work_failed
        assert main(["reconstruct", str(data_file), "--output-dir", str(tmp_path / "out"), "--preview"]) == 1
        assert PREVIEW in seen[0]
        assert not (tmp_path / "out").exists()

    def test_without_the_flag_there_is_none(self, data_file, tmp_path, capsys, seen):
        assert main(["reconstruct", str(data_file), "--output-dir", str(tmp_path / "out")]) == 0
        assert PREVIEW not in seen[0]

    def test_somebody_elses_picture_is_refused_before_any_work(self, data_file, tmp_path, capsys, seen):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / PREVIEW).write_bytes(b"mine")
        assert main(["reconstruct", str(data_file), "--output-dir", str(tmp_path / "out"), "--preview"]) == 2
        assert "output.exists" in capsys.readouterr().err
        assert (tmp_path / "out" / PREVIEW).read_bytes() == b"mine"
        assert not seen
