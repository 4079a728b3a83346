"""Pages of runs: self-contained, escaped, part of the set of results (specs/cli.md, CLI-70, CLI-71)."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ptycho_cli.main import main
from ptycho_cli.output import run_page
from ptycho_cli.output.comparison_page import comparison_page
from ptycho_cli.output.markup import words
from ptycho_cli.output.run_page import Run

PNG = b"\x89PNG\r\n\x1a\n" + bytes(16)
ANYTHING = st.text(st.characters(), max_size=30)  # with surrogates, control characters and marks of direction
HOSTILE = "\x1b[2J</title><script>alert(1)</script><img src=http://x/y onerror='z'>\u202e\"&\x00\ud800.npz"


class Page(HTMLParser):
    """What a browser would make of a page: tags with attributes, and text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self) -> str:
        """All text, of its style sheet, too."""
        return " ".join(" ".join(self.texts).split())

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [found for name, found in self.tags if name == tag]


LEGAL = {
    *("html", "head", "meta", "title", "style", "body", "section", "h1", "h2", "h3", "p", "div", "b", "span", "strong"),
    *("ul", "li", "figure", "figcaption", "img", "table", "thead", "tbody", "tr", "th", "td", "code", "footer"),
}
HARMLESS = {"lang", "charset", "http-equiv", "content", "name", "class", "scope", "alt"}


def check_self_contained(text: str) -> Page:
    """No script, no handler, no address: not even from hostile names."""
    page = Page(text)
    assert {tag for tag, _ in page.tags} <= LEGAL
    for tag, attributes in page.tags:
        assert set(attributes) <= HARMLESS | ({"src"} if tag == "img" else set()), (tag, attributes)
    assert all(image["src"].startswith("data:image/png;base64,") for image in page.attributes("img"))
    assert "url(" not in text
    assert "@import" not in text
    assert not [one for one in text if not one.isprintable() and one != "\n"]
    text.encode("utf-8")
    return page


@pytest.fixture
def run(backend, data_file, tmp_path, monkeypatch):
    """Reconstruct into ``tmp_path / out``, with what a real run reports; returns the exit code."""
    backend.report = {
        "residual": {"used": 0.25, "held_out": 0.3},
        "poisson_floor": {"used": 0.1, "held_out": 0.1},
        "losses": [0.5, 0.25],
        "epochs": 2,
        "seconds": {"reconstruction": 1.5},
        "probe": {"mode_powers": [1.0]},
        "settings": {"reconstruction": {"modes": 2, "epochs": 20}},
        "patterns": {"used": 12, "held_out": 0},
        "object_pixel_size_m": 3.1e-8,
    }
    return lambda *more, out="out": main(
        ["reconstruct", str(data_file), "--output-dir", str(tmp_path / out), "--quiet", *more]
    )


def test_a_run_has_a_page_of_all_that_it_found(run, data_file, tmp_path):
    """CLI-70: the very pictures of the folder, R beside its floor, settings, provenance, advice."""
    assert run() == 0
    out = tmp_path / "out"
    page = check_self_contained((out / "report.html").read_text())
    shown = {base64.b64decode(image["src"].partition(",")[2]) for image in page.attributes("img")}
    pictures = {path.read_bytes() for path in out.glob("*.png")}
    assert len(pictures) == 5
    assert shown == pictures
    for expected in (
        "Reconstruction of scan.npz",
        "R 0.25 2.50 times its Poisson floor 0.1",
        "R of held-out patterns 0.3 3.00 times its Poisson floor 0.1",
        "R 0.25 is above its floor 0.1: try",  # the hint of the command line, CLI-26
        "Object pixel 31 nm",
        "power of probe mode 1 100.00%",
        "modes 2 (default 3)",
        "epochs 20",
        hashlib.sha256(data_file.read_bytes()).hexdigest(),
        hashlib.sha256((out / "object.npz").read_bytes()).hexdigest(),
        f"ptycho-cli reconstruct {data_file} --output-dir {out} --quiet",
    ):
        assert expected in page.text, expected
    summary = json.loads((out / "summary.json").read_text())
    for package, version in summary["versions"].items():
        assert f"{package} {version}" in page.text
    assert summary["finished"].replace("T", " ") in page.text


def test_the_page_belongs_to_the_set(run, tmp_path, capsys):
    """CLI-34, CLI-35: its sha256 is in the summary; `inspect` tells a page of another run."""
    assert run() == 0
    page = tmp_path / "out" / "report.html"
    outputs = json.loads((tmp_path / "out" / "summary.json").read_text())["outputs"]
    assert outputs["report.html"] == hashlib.sha256(page.read_bytes()).hexdigest()
    page.write_text(page.read_text().replace("0.25", "0.15"))
    assert main(["inspect", str(tmp_path / "out")]) == 2
    assert f"{page}: expected sha256" in capsys.readouterr().err


def test_a_page_that_cannot_be_made_does_not_cost_the_run(run, tmp_path, monkeypatch):
    """CLI-70: a warning, and all other results."""

    def broken(*_):
        raise MemoryError("no room")

    monkeypatch.setattr(run_page, "run_page", broken)
    with pytest.warns(RuntimeWarning, match=r"no report\.html: MemoryError: no room; all other results are written"):
        assert run() == 0
    outputs = json.loads((tmp_path / "out" / "summary.json").read_text())["outputs"]
    assert {"object.npz", "amplitude.png", "probe.png"} <= set(outputs)
    assert "report.html" not in outputs
    assert not (tmp_path / "out" / "report.html").exists()
    assert main(["inspect", str(tmp_path / "out")]) == 0


def test_a_training_has_a_page(backend, data_file, tmp_path):
    """CLI-70."""
    assert main(["train", str(data_file), "--output-dir", str(tmp_path / "out"), "--quiet"]) == 0
    outputs = json.loads((tmp_path / "out" / "summary.json").read_text())["outputs"]
    assert set(outputs) == {"model.safetensors", "report.html"}
    check_self_contained((tmp_path / "out" / "report.html").read_text())


def test_an_evaluation_has_a_page_that_replaces_none_of_a_run(run, tmp_path, capsys):
    """CLI-70: report.html in a folder of its own; evaluation.html beside the results of a run, whichever came first."""
    assert run() == 0
    out, alone = tmp_path / "out", tmp_path / "alone"
    before = (out / "report.html").read_bytes()
    words = ["evaluate", str(out / "object.npz"), "--truth", str(out / "object.npz"), "--quiet", "--output-dir"]
    assert main([*words, str(out)]) == 0
    assert (out / "report.html").read_bytes() == before
    assert main(["inspect", str(out)]) == 0
    assert main([*words, str(alone)]) == 0
    assert not (alone / "evaluation.html").exists()
    page = check_self_contained((alone / "report.html").read_text())
    assert "Evaluation of object.npz" in page.text
    assert "complex correlation 1.0000" in page.text
    assert len(page.attributes("img")) == 2
    assert main(["inspect", str(alone)]) == 0
    assert run("--overwrite", out="alone") == 0
    capsys.readouterr()
    assert main(["inspect", str(alone)]) == 0
    assert "ok   report.html" in capsys.readouterr().out


def test_report_writes_the_page_again_and_of_the_evaluation_too(run, tmp_path, monkeypatch, capsys):
    """CLI-71: bit for bit that of the run; nothing is replaced unasked."""
    assert run() == 0
    out = tmp_path / "out"
    monkeypatch.chdir(tmp_path)
    assert main(["report", str(out)]) == 0
    assert capsys.readouterr().out.startswith("wrote report.html: 1 run, ")
    assert Path("report.html").read_bytes() == (out / "report.html").read_bytes()
    assert main(["report", str(out)]) == 2
    assert "report.html: expected no file there yet, found a file; give --overwrite" in capsys.readouterr().err
    words = ["evaluate", str(out / "object.npz"), "--truth", str(out / "object.npz"), "--quiet", "--output-dir"]
    assert main([*words, str(out)]) == 0
    assert main(["report", str(out), "--overwrite", "--quiet"]) == 0
    assert capsys.readouterr().out == ""
    page = check_self_contained(Path("report.html").read_text())
    assert "complex correlation 1.0000" in page.text
    assert len(page.attributes("img")) == 7


def test_several_runs_are_compared(run, backend, reconstruction, tmp_path, capsys):
    """CLI-71: what differs, and pictures beside each other."""
    assert run() == 0
    backend.result = replace(reconstruction, object=2 * reconstruction.object)
    backend.report |= {"residual": {"used": 0.11}, "settings": {"reconstruction": {"modes": 4, "epochs": 20}}}
    assert run(out="more") == 0
    target = tmp_path / "pages" / "compared.html"
    folders = [tmp_path / "out", tmp_path / "more"]
    assert main(["report", *map(str, folders), "--output", str(target)]) == 0
    page = check_self_contained(target.read_text())
    assert "Comparison of 2 runs" in page.text
    assert "reconstruction: modes 2 4" in page.text
    assert "reconstruction: epochs" not in page.text
    assert "A 0.25 2.50" in page.text
    assert "B 0.11 1.10" in page.text
    assert "All read the same files" in page.text
    shown = [base64.b64decode(image["src"].partition(",")[2]) for image in page.attributes("img")]
    order = ["amplitude.png", "phase.png", "coverage.png", "losses.png", "probe.png"]
    assert shown == [(folder / name).read_bytes() for name in order for folder in folders]
    assert [image["alt"] for image in page.attributes("img")][:2] == [f"A: {folders[0]}", f"B: {folders[1]}"]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ([], "usage.results"),
        (["nothing"], "file.missing"),
        (["scan.npz"], "report.no_results"),
        (["empty"], "report.no_results"),
        (["out", "--output", "out/again.html"], "report.in_results"),
        (["out", "--output", "empty"], "output.is_a_folder"),
        (["out", "--output", "scan.npz/a.html"], "output.not_a_folder"),
        (["mixed"], "results.mixed"),
        (["forged"], "file.unreadable"),
        (["noise"], "file.unreadable"),
    ],
)
def test_what_is_no_result_is_refused(words, code, run, tmp_path, monkeypatch, capsys):
    """CLI-71: exit 2, one line, nothing written."""
    assert run() == 0
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    shutil.copytree("out", "mixed")
    Path("mixed/object.npz").write_bytes(b"another")
    Path("forged").mkdir()
    Path("forged/summary.json").write_text('{"outputs": {}, "probe": [1], "residual": "high", "losses": {"a": 1}}')
    Path("noise").mkdir()
    Path("noise/phase.png").write_bytes(b"<script>")
    digest = hashlib.sha256(b"<script>").hexdigest()
    Path("noise/summary.json").write_text(json.dumps({"outputs": {"phase.png": digest}}))
    before = sorted(Path().rglob("*"))
    assert main(["report", *words]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"[{code}]" in error
    assert sorted(Path().rglob("*")) == before


@given(ANYTHING)
def test_foreign_text_cannot_leave_its_place(text):
    """CLI-70: a browser reads back the text, with control characters spelled out, and no tag; in an attribute, too."""
    page = Page(f'<p title="{words(text)}">{words(text)}</p>')
    assert [tag for tag, _ in page.tags] == ["p"]
    assert "".join(page.texts) == page.tags[0][1]["title"]
    assert "".join(page.texts).isprintable()
    words(text).encode("utf-8")
    assert page.tags[0][1]["title"] == text or not text.isprintable()


@given(names=st.lists(ANYTHING, min_size=4, max_size=4))
def test_hostile_names_stay_text(names):
    """CLI-70, CLI-71: in every place of a page where a stranger's words may stand."""
    for one in (names, [HOSTILE] * 4):
        file, note, unit, key = one
        summary = {
            "command": ["ptycho-cli", "reconstruct", file],
            "finished": note,
            "versions": {"ptycho-cli": unit, key: note},
            "inputs": [{"path": f"/data/{file}", "bytes": note, "sha256": unit}],
            "outputs": {key: note},
            "settings": {key: {note: file}, "reconstruction": {key: [file, note], "modes": unit}},
            "device": note,
            "seed": unit,
            "stopped_by": file,
            "measurement": {"unit": unit, "decided_by": note},
            "prior": {"kind": key, "weight": note},
            "seconds": {key: 1.0},
            "patterns": {"used": file, "held_out": unit},
        }
        evaluation = {
            "kind": "half scans",
            "residual": {"used": 0.1},
            "poisson_floor": {"used": 0.1},
            "residual_over_floor": {"used": 1.0, "held_out": None},
            "halves": [{"patterns": note}],
            "frc": {"half": None, "half_crossing": unit, "half_bit": 0.5, "half_bit_crossing": "crossed"},
            "advice": [{"code": key, "text": file}],
        }
        run = Run(summary, evaluation, {"phase.png": PNG}, name=file)
        for text in (run_page.run_page(run), comparison_page([run, run])):
            check_self_contained(text)


def test_the_page_prints_in_black_and_white():
    """CLI-70: advice and settings are not told by colour alone, and print has rules of its own."""
    text = run_page.run_page(Run({"settings": {"reconstruction": {"modes": 7}}}))
    assert "@media print" in text
    assert "break-inside: avoid" in text
    assert "<strong>7</strong>" in text
    colours = set(re.findall(r"#[0-9a-f]{3,6}\b", text))
    assert colours
    assert all(len(set(colour[1:])) == 1 for colour in colours), "a grey has equal parts"
