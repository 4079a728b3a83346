"""Advice in words (specs/cli.md, CLI-19 and CLI-26)."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ptycho_cli.advice import advise, hint, over_floor, try_next
from ptycho_cli.main import main

SETTLED = {
    "residual": 0.0105, "floor": 0.01, "held_out": 0.011, "modes": 1, "epochs": 20, "half_bit": 0.5,
    "half_bit_before": 0.49,
}  # fmt: skip


def codes(**changes) -> list[str]:
    return [entry.code for entry in advise(**{**SETTLED, **changes})]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ["residual.floor", "frc.settled", "stop"]),
        ({"residual": 0.014, "held_out": 0.014}, ["residual.near", "frc.settled", "stop"]),
        ({"residual": 0.016, "held_out": 0.016}, ["residual.above", "frc.settled"]),
        ({"half_bit": 0.55}, ["residual.floor", "frc.rising"]),
        ({"half_bit": 0.45}, ["residual.floor", "frc.falling"]),
        ({"held_out": 0.013}, ["residual.floor", "overfit", "frc.settled", "stop"]),
        ({"held_out": None, "half_bit_before": None}, ["residual.floor"]),
        ({"residual": None}, ["frc.settled"]),
    ],
)
def test_each_figure_has_its_advice(changes, expected):
    """CLI-19; thresholds by the spec: 1.1, 1.5, 1.2, 0.02."""
    assert codes(**changes) == expected


def test_high_residuals_ask_for_modes_first_and_then_for_the_rest():
    assert [try_next(modes) for modes in (1, 2)] == ["try --modes 3"] * 2
    assert try_next(3) == "try more --epochs, --modes 5, --correct-positions, --fit-background"
    assert try_next(7, corrects_positions=True) == "try more --epochs, --modes 8, --fit-background"
    assert try_next(8, corrects_positions=True, fits_background=True) == "try more --epochs"
    texts = {entry.code: entry.text for entry in advise(**{**SETTLED, "residual": 0.03})}
    assert texts["residual.above"].endswith("something is not modelled; try --modes 3")


def test_a_descent_that_is_not_done_is_told_so_before_anything_else():
    texts = {entry.code: entry.text for entry in advise(**{**SETTLED, "residual": 0.03, "half_bit": 0.6})}
    assert "the descent is not done; with more epochs" in texts["residual.above"]
    assert texts["frc.rising"].endswith("try --epochs 40")


@given(
    residual=st.none() | st.floats(allow_nan=True), floor=st.none() | st.floats(allow_nan=True),
    held_out=st.none() | st.floats(allow_nan=True), half_bit=st.none() | st.floats(0, 1),
    before=st.none() | st.floats(0, 1), modes=st.integers(1, 8), epochs=st.integers(1, 100),
)  # fmt: skip
def test_no_figure_breaks_it_and_stopping_is_never_advised_above_the_floor(
    residual, floor, held_out, half_bit, before, modes, epochs
):
    found = advise(
        residual=residual, floor=floor, held_out=held_out, modes=modes, epochs=epochs, half_bit=half_bit,
        half_bit_before=before,
    )  # fmt: skip
    ratio = over_floor(residual, floor)
    stops = "stop" in [entry.code for entry in found]
    assert not stops or (ratio is not None and ratio <= 1.5 and abs(half_bit - before) <= 0.02)
    assert not any("nan" in entry.text for entry in found)


def summary(residual, floor, **settings):
    return {"residual": {"used": residual}, "poisson_floor": {"used": floor}, "settings": settings}


@pytest.mark.parametrize(
    ("command", "settings", "words"),
    [
        ("reconstruct", {"reconstruction": {"modes": 1}}, "R 0.016 is above its floor 0.006: try --modes 3"),
        ("reconstruct", {"reconstruction": {"modes": 3}}, "--modes 5"),
        ("train", {"model": {"modes": 1}}, ": try --modes 3"),
        ("infer", {"model": {"modes": 1}, "inference": {"refine": 0}}, "try --refine 5, or train with --modes 3"),
        ("infer", {"model": {"modes": 3}, "inference": {"refine": 5}}, "try a larger --refine"),
    ],
)
def test_a_run_far_above_its_floor_ends_with_a_hint(command, settings, words):
    """CLI-26."""
    found = hint(command, summary(0.016, 0.006, **settings))
    assert found is not None
    assert words in found


def test_a_collapsed_training_says_so():
    found = hint("train", {"training": {"collapsed": True, "flat_loss": 0.2, "losses": {"val_loss": 0.21}}})
    assert found is not None
    assert "val_loss 0.21 is no better than a flat object's 0.2" in found
    assert hint("train", {"training": {"collapsed": False}}) is None


@pytest.mark.parametrize("figures", [(0.009, 0.006), (0.016, None), (None, 0.006), (math.nan, 0.006), (1.0, 0.0)])
def test_no_hint_near_the_floor_or_without_figures(figures):
    assert hint("reconstruct", summary(*figures, reconstruction={"modes": 1})) is None
    assert hint("train", {}) is None


def test_the_hint_is_one_more_line_on_stdout(backend, data_file, tmp_path, capsys, monkeypatch):
    """CLI-26, and CLI-24: quiet silences it."""
    work = backend.reconstruct
    far = summary(0.016, 0.006, reconstruction={"modes": 1})
    monkeypatch.setattr(backend, "reconstruct", lambda *args, **options: (work(*args, **options)[0], far))
    argv = ["reconstruct", str(data_file), "--output-dir", str(tmp_path / "out")]
    assert main(argv) == 0
    assert capsys.readouterr().out.splitlines()[1:] == ["R 0.016 is above its floor 0.006: try --modes 3"]
    assert main([*argv, "--quiet"]) == 0
    assert capsys.readouterr().out == ""
