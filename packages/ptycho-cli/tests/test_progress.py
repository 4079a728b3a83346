"""What a run tells while it works: log, terminal, first sign of life (specs/cli.md, CLI-24, CLI-39)."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
from fcntl import ioctl
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ptycho_cli.main import main
from ptycho_cli.output import progress as module
from ptycho_cli.output.progress import Log, Reporter, progress_on, reading_words
from ptycho_cli.output.stage_words import Stage
from ptycho_cli.output.terminal import wrapped
from ptycho_contracts.problems import ContractError, Problem
from ptycho_data.stages import begin, tell

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def log(stream, clock) -> Log:
    return Log(stream, clock=clock)


class Terminal(io.StringIO):
    """A stream that says that somebody looks at it."""

    def isatty(self) -> bool:
        return True


class TestLog:
    """CLI-24: lines now and then."""

    def test_a_line_every_ten_seconds_with_rate_time_left_and_loss(self, log, stream, clock):
        """Of 6000 steps at 20 a second, from a checkpoint at 1000."""
        for second in range(31):
            clock.now = 100 + second
            tell(log, "training", 1000 + 20 * second, 6000, loss=1 / (1 + second))
        assert stream.getvalue().splitlines() == [
            "training: 1,020/6,000 steps, 20 steps/s, 4:09 min left, loss 0.5",
            "training: 1,220/6,000 steps, 20 steps/s, 3:59 min left, loss 0.08333",
            "training: 1,420/6,000 steps, 20 steps/s, 3:49 min left, loss 0.04545",
        ]

    def test_steps_really_done_when_stopped_early(self, log, stream, clock):
        """Never filled up to all: another stage begins, and the one before ended where it was."""
        for step in (1, 200, 400):
            clock.now = 100 + step / 100
            tell(log, "training", step, 6000, loss=0.25)
        begin(log, "pictures")
        clock.now += 5
        log.close()
        first, end, pictures = stream.getvalue().splitlines()
        assert first.startswith("training: 200/6,000 steps")
        assert end == "training: 400/6,000 steps, 100 steps/s, 4.0 s, loss 0.25"
        assert pictures == "pictures: 5.0 s"

    def test_the_rate_is_that_of_the_last_half_minute(self, log, stream, clock):
        """A first step that took a minute says nothing of the time left; the mean in the end has it."""
        tell(log, "training", 1, 1000)
        clock.now += 60
        for step in range(2, 902):
            clock.now += 0.1
            tell(log, "training", step, 1000)
        last = stream.getvalue().splitlines()[-1]
        assert re.fullmatch(r"training: \d+/1,000 steps, 10(\.0)? steps/s, [\d.]+ s left", last), last
        log.close()
        assert "901/1,000 steps, 6 steps/s, 2:30 min" in stream.getvalue().splitlines()[-1]

    def test_time_left_ends_with_the_limit(self, stream, clock):
        log = Log(stream, clock=clock, limit_s=30.0)
        for second in range(15):
            clock.now = 100 + second
            tell(log, "training", 1 + second, 1000)
        assert stream.getvalue().splitlines()[-1].endswith("1 steps/s, 19 s left")

    def test_beats_while_nothing_reports(self, log, stream, clock):
        """The first after half a second, so that a short command that fails prints its error alone."""
        begin(log, "reading scan.npz (3.1 MB)")
        for second in (0.4, 0.6, 5.0, 10.5, 10.7, 20.8):
            clock.now = 100 + second
            log.beat()
        assert stream.getvalue().splitlines() == [
            "reading scan.npz (3.1 MB)",
            "reading scan.npz (3.1 MB): 11 s",
            "reading scan.npz (3.1 MB): 21 s",
        ]

    def test_says_at_once_that_a_backend_is_loaded(self, log, stream):
        """No other thread runs while it is."""
        begin(log, "reading scan.npz")
        begin(log, "loading PyTorch")
        assert stream.getvalue() == "loading PyTorch\n"

    def test_stores_count_bytes(self, log, stream, clock):
        begin(log, "store")
        for done in (1_000_000, 2_000_000, 4_000_000):
            clock.now += 0.5
            tell(log, "write", done, 4_000_000)
        tell(log, "commit", 1, 1)
        begin(log, "training")
        assert stream.getvalue().splitlines()[-1] == "store: 4/4 MB, 3 MB/s, 1.5 s"

    def test_the_same_stage_again_is_another_one(self, log, stream):
        for _ in range(2):
            for done in (1, 2):
                tell(log, "probe search", done, 2)
        assert stream.getvalue() == 2 * "probe search: 2/2 probes, 0.0 s\n"

    @given(
        st.lists(
            st.tuples(st.sampled_from(["a", "write", "x\x1b[2J"]), st.integers(0, 9), st.floats(0, 9)), max_size=40
        )
    )
    def test_any_reports_make_whole_lines_without_control_characters(self, reports):
        stream, clock = io.StringIO(), Clock()
        log = Log(stream, clock=clock)
        ends = 0
        for stage, total, seconds in reports:
            clock.now += seconds
            tell(log, stage, total, total) if total else begin(log, stage)
            ends += 1
        log.close()
        written = stream.getvalue()
        assert written == "" or written.endswith("\n")
        assert all(line.isprintable() for line in written.splitlines())
        assert len(written.splitlines()) <= 2 * ends + 1

    def test_losses_are_read_five_times_a_second(self, clock):
        """Each reading may wait for a GPU; the last one is read always."""
        read = []

        class OnGpu:
            def __float__(self) -> float:
                read.append(clock.now)
                return 1.0

        reporter = Reporter(clock=clock)
        for step in range(1, 1001):
            clock.now = 100 + step / 1000
            tell(reporter, "training", step, 1000, loss=OnGpu())
        assert len(read) == 6

    def test_the_thread_ends_with_the_block(self, stream):
        before = threading.active_count()
        with progress_on(stream=stream, first="reading scan.npz") as callback:
            assert threading.active_count() == before + 1
            callback("training", 1, 1)
        assert threading.active_count() == before
        assert stream.getvalue().endswith("training: 1/1 steps, 0.0 s\n")

    def test_a_dumb_terminal_is_a_log(self, monkeypatch):
        monkeypatch.setenv("TERM", "dumb")
        stream = Terminal()
        with progress_on(stream=stream) as callback:
            callback("training", 1, 1)
        assert stream.getvalue() == "training: 1/1 steps, 0.0 s\n"


def test_reading_words(tmp_path):
    path = tmp_path / "scan.npz"
    path.write_bytes(bytes(2_540_000))
    assert reading_words([path]) == "reading scan.npz (2.5 MB)"
    assert reading_words([path, path]) == "reading 2 files (5.1 MB)"
    assert reading_words([tmp_path]) == f"reading {tmp_path.name}"


def test_amounts_in_words():
    """By hand."""
    stage = Stage("residuals", began=0.0)
    stage.hear("residuals", 100, 8000, 1.0)
    assert stage.moving(1.0) == "100/8,000"
    stage.hear("residuals", 5100, 8000, 11.0)
    assert stage.moving(11.0) == "5,100/8,000  500 patterns/s  5.8 s left"
    assert stage.part == pytest.approx(0.6375)


FIRST_SIGN = """
import io, sys

class Terminal(io.StringIO):
    seen = None
    def isatty(self):
        return True
    def write(self, text):
        if Terminal.seen is None:
            heavy = ("torch", "tensorflow", "scipy", "h5py", "rich.live", "ptycho_data.files")
            Terminal.seen = text, [name for name in heavy if name in sys.modules]
        return super().write(text)

out, sys.stderr = sys.stderr, Terminal()
from ptycho_cli.main import main
code = main(sys.argv[1:])
print(code, repr(Terminal.seen))
"""


@pytest.mark.parametrize("command", ["infer", "reconstruct", "train", "evaluate", "inspect", "convert", "import"])
def test_the_first_sign_of_life_precedes_all_imports(data_file, tmp_path, command):
    """CLI-24: nothing that takes time is imported before a terminal shows what is read."""
    words = {
        "infer": ["infer", "pretrained", data_file, "--output-dir", tmp_path / "out"],
        "evaluate": ["evaluate", "--scan", data_file],
        "inspect": ["inspect", data_file],
        "convert": ["convert", data_file, tmp_path / "other.npz"],
        "import": ["import", data_file, tmp_path / "other.npz"],
    }.get(command, [command, data_file, "--output-dir", tmp_path / "out"])
    code = FIRST_SIGN.replace("from ptycho_cli.main", _STOPPED + "from ptycho_cli.main")
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"'reading {data_file.name} (0.0 MB)', []" in done.stdout


_STOPPED = """
from ptycho_cli import backends
backends.entry_points = lambda *, group: []
backends.require_backend = lambda name: None
for name in ("infer", "reconstruct", "train", "evaluate"):
    setattr(__import__("ptycho_cli.commands." + name, fromlist=[name]), "require_backend", lambda name: None)
"""
"""The work itself is not wanted: there is no backend, which is found out after the first sign."""


def seen_in_terminal(*words: str, columns: int, folder: Path) -> tuple[int, str]:
    """Run the program in a pseudo-terminal; its exit code and all that it wrote."""
    outer, inner = pty.openpty()
    ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "PYTHONWARNINGS")}
    process = subprocess.Popen(
        [sys.executable, "-m", "ptycho_cli", *words],
        stdin=inner,
        stdout=inner,
        stderr=inner,
        cwd=folder,
        env={**environment, "TERM": "xterm-256color"},
    )
    os.close(inner)
    written = b""
    while True:
        try:
            part = os.read(outer, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        written += part
    os.close(outer)
    return process.wait(), written.decode()


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_a_terminal_shows_one_line_of_its_width(tmp_path, columns):
    """CLI-24: each drawing replaces the one before; only ends of stages and the outcome stay."""
    words = ("simulate", "a-scan-with-a-name.npz", "--patterns", "400", "--N", "32")
    code, written = seen_in_terminal(*words, columns=columns, folder=tmp_path)
    assert code == 0
    frames = [ESCAPE.sub("", frame) for frame in re.split(r"\r\x1b\[2K|\r\n", written)]
    assert frames[0].startswith("simulating a-scan-with-a-name.npz"[: columns - 1])
    assert max(map(len, frames)) <= columns
    assert "wrote a-scan-with-a-name.npz: 400 patterns" in " ".join(" ".join(frames).split())
    assert written.count("\x1b[?25l") == written.count("\x1b[?25h") == 1  # the cursor is hidden, and comes back
    stayed = [frame for frame in frames if "400/400 patterns" in frame]
    assert len(stayed) == 1
    assert "left" not in stayed[0]


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_errors_in_a_terminal_are_wrapped_lists(tmp_path, columns):
    """CLI-39: words stay whole; a pipe has one line (CLI-31)."""
    (tmp_path / "settings.toml").write_text("epochs = 'many'\nmodez = 3\n")
    scan = tmp_path / "scan.npz"
    scan.write_bytes(b"x")
    words = ("reconstruct", str(scan), "--output-dir", "out", "--config", "settings.toml")
    code, written = seen_in_terminal(*words, columns=columns, folder=tmp_path)
    assert code == 2
    head, *lines = written.splitlines()
    assert head == "ptycho-cli: error: 2 problems"
    assert [line[:5] for line in lines if line[2].isdigit()] == ["  1. ", "  2. "]
    assert all(line.startswith("     ") for line in lines if not line[2].isdigit())
    assert all(len(line) <= columns or " " not in line.strip() for line in lines)
    piped = subprocess.run(
        [sys.executable, "-m", "ptycho_cli", *words], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert piped.returncode == 2
    assert piped.stderr.count("\n") == 1
    said = " ".join(" ".join(lines).split())
    for part in ("settings.toml: epochs: expected", "settings.toml: modez: expected", "[config.unknown]"):
        assert part in said
        assert part in piped.stderr


def test_the_outcome_is_wrapped_on_a_terminal_only(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    text = "wrote /a/long/path/that-stays/whole/object.npz; residual used 0.2500; try --correct-positions"
    assert wrapped(text, io.StringIO()) == text
    lines = wrapped(text, Terminal()).splitlines()
    assert len(lines) > 2
    assert " ".join(" ".join(lines).split()) == text
    assert "/a/long/path/that-stays/whole/object.npz;" in [line.strip().split(" ")[-1] for line in lines]


def test_quiet_says_nothing_and_json_stays_clean(backend, data_file, tmp_path, capsys, monkeypatch):
    """CLI-24: progress is never on stdout."""
    monkeypatch.setattr(module, "FIRST_SECONDS", 0.0)
    assert main(["inspect", str(data_file), "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["kind"] == "scan"
    assert "reading scan.npz" in captured.err
    assert main(["reconstruct", str(data_file), "--output-dir", str(tmp_path / "out"), "--quiet"]) == 0
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_problems_as_a_list_in_this_process(monkeypatch, capsys, backend, data_file, tmp_path):
    """CLI-39 with several problems found during the work."""
    backend.error = ContractError(Problem(f"array {name}", "a.code", "one", "two", "mend it") for name in "ab")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "dumb")
    assert main(["reconstruct", str(data_file), "--output-dir", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.splitlines()[-3:] == [
        "ptycho-cli: error: 2 problems",
        "  1. array a: expected one, found two; mend it [a.code]",
        "  2. array b: expected one, found two; mend it [a.code]",
    ]
