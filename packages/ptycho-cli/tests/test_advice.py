"""Advice in words (specs/cli.md, CLI-19, CLI-26, CLI-28)."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ptycho_cli.main import main
from ptycho_cli.output.flags import with_flags
from ptycho_data.checks import advice
from ptycho_data.checks.advice import over_floor

pytestmark = pytest.mark.usefixtures("undrawn")

SETTLED = {
    "residual": 0.0105,
    "floor": 0.01,
    "held_out": 0.011,
    "modes": 1,
    "epochs": 20,
    "half_bit": 0.5,
    "half_bit_before": 0.49,
}


def advise(**figures):
    """The library's advice, as the command line shows it."""
    return [replace(entry, text=with_flags(entry.text)) for entry in advice.advise(**figures)]


def hint(command, summary):
    result = advice.hint(command, summary)
    return None if result is None else with_flags(result)


def collapsed(summary, model):
    result = advice.collapsed(summary, model)
    return None if result is None else with_flags(str(result))


def try_next(modes, **options):
    return with_flags(advice.try_next(modes, **options))


def test_the_library_names_python_arguments():
    """Errors and advice of the library have no flags; the command line puts them in."""
    assert advice.try_next(1) == "try `modes=3`"
    assert with_flags(advice.try_next(3)) == "try more --epochs, --modes 5, --correct-positions, --fit-background"


def codes(**changes) -> list[str]:
    return [entry.code for entry in advise(**{**SETTLED, **changes})]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ["residual.floor", "frc.settled", "stop"]),
        ({"residual": 0.014, "held_out": 0.014}, ["residual.near", "frc.settled", "stop"]),
        ({"residual": 0.016, "held_out": 0.016}, ["residual.above", "frc.settled"]),
        ({"residual": 0.031, "held_out": 0.031}, ["residual.far", "frc.settled"]),
        ({"residual": 0.0059, "held_out": 0.006}, ["residual.below", "frc.settled"]),
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


def test_an_unfinished_fit_is_reported_before_anything_else():
    texts = {entry.code: entry.text for entry in advise(**{**SETTLED, "residual": 0.03, "half_bit": 0.6})}
    assert texts["residual.above"].endswith("the fit has not converged; if R stays with more epochs, try --modes 3")
    assert texts["frc.rising"].endswith("try --epochs 40")
    rest = {"modes": 3, "residual": 0.03, "half_bit": 0.6}
    texts = {entry.code: entry.text for entry in advise(**{**SETTLED, **rest})}
    assert texts["residual.above"].endswith("epochs, try --modes 5, --correct-positions, --fit-background")
    rest |= {"modes": 8, "corrects_positions": True, "fits_background": True}
    texts = {entry.code: entry.text for entry in advise(**{**SETTLED, **rest})}
    assert texts["residual.above"].endswith("the fit has not converged")


def test_far_above_the_floor_in_the_near_field_that_is_named_first():
    """CLI-26: no orientation mends it."""
    summary = {"residual": {"used": 0.05}, "poisson_floor": {"used": 0.01}, "fresnel_number": 2.6}
    text = advice.hint("reconstruct", summary)
    assert text.index("Fresnel number is 2.6") < text.index("orientation")
    for number in (0.4, None):
        assert "Fresnel" not in advice.hint("reconstruct", {**summary, "fresnel_number": number})


@given(
    residual=st.none() | st.floats(allow_nan=True),
    floor=st.none() | st.floats(allow_nan=True),
    held_out=st.none() | st.floats(allow_nan=True),
    half_bit=st.none() | st.floats(0, 1),
    before=st.none() | st.floats(0, 1),
    modes=st.integers(1, 8),
    epochs=st.integers(1, 100),
)
def test_no_figure_breaks_it_and_stopping_is_never_advised_above_the_floor(
    residual, floor, held_out, half_bit, before, modes, epochs
):
    result = advise(
        residual=residual,
        floor=floor,
        held_out=held_out,
        modes=modes,
        epochs=epochs,
        half_bit=half_bit,
        half_bit_before=before,
    )
    ratio = over_floor(residual, floor)
    stops = "stop" in [entry.code for entry in result]
    assert not stops or (ratio is not None and ratio <= 1.5 and abs(half_bit - before) <= 0.02)
    assert not any("nan" in entry.text for entry in result)


def summary(residual, floor, **settings):
    return {"residual": {"used": residual}, "poisson_floor": {"used": floor}, "settings": settings}


@pytest.mark.parametrize(
    ("command", "settings", "words"),
    [
        ("reconstruct", {"reconstruction": {"modes": 1}}, "R 0.016 is above its floor 0.006: try --modes 3"),
        ("reconstruct", {"reconstruction": {"modes": 3}}, "--modes 5"),
        ("infer", {"model": {"modes": 1}, "inference": {"refine": 0}}, "try --refine 5, or train with --modes 3"),
        ("infer", {"model": {"modes": 3}, "inference": {"refine": 5}}, "try a larger --refine"),
    ],
)
def test_a_run_far_above_its_floor_ends_with_a_hint(command, settings, words):
    """CLI-26."""
    result = hint(command, summary(0.016, 0.006, **settings))
    assert result is not None
    assert words in result


def test_what_is_basic_is_named_before_more_epochs():
    """CLI-26: orientation first far above the floor, unit and gain below it; more epochs while the loss falls."""
    far = hint("reconstruct", summary(0.03, 0.006, reconstruction={"modes": 3}))
    assert "rank the orientations of the positions: inspect with --orientation; then try more --epochs" in far
    below = hint("infer", summary(0.002, 0.006, model={"modes": 1}))
    assert "below its floor 0.006: the patterns are hardly counts of photons; state their unit (--measurement)" in below
    flat, steep = [0.05, 0.0161, 0.0161, 0.016], [0.05, 0.03, 0.02, 0.016]
    for losses, asked in ((flat, False), (steep, True)):
        result = hint("reconstruct", summary(0.016, 0.006, reconstruction={"modes": 3}) | {"losses": losses})
        assert ("more --epochs" in result) is asked
        assert "--modes 5" in result


def calibrated(residual=0.016, floor=0.006, *, steps=480, modes=1, **more):
    """Summary of a training whose probe was calibrated in 15 epochs."""
    reported = {"residual": residual, "poisson_floor": floor, "steps": steps}
    settings = {"model": {"modes": modes}, "training": {"calibration_epochs": 15}}
    return {"probe": {"calibration": reported}, "settings": settings, **more}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "the calibrated probe's R 0.016 is above its floor 0.006: try --modes 3"),
        ({"modes": 2}, ": try --modes 3"),
        ({"modes": 3}, ": try --modes 5"),
        ({"modes": 7}, ": try --modes 8"),
        ({"modes": 8}, ": try --calibration-epochs 30"),
        ({"steps": 105}, ": try --calibration-epochs 58, then --modes 3"),
        ({"steps": 105, "modes": 8}, ": try --calibration-epochs 58"),
        ({"steps": 399}, ": try --calibration-epochs 16, then --modes 3"),
        ({"steps": 400}, ": try --modes 3"),
    ],
)
def test_a_training_with_a_poor_probe_ends_with_a_hint(given, words):
    """CLI-26: more modes; but 400 steps of calibration first, 7 of 105 an epoch."""
    result = hint("train", calibrated(**given))
    assert result is not None
    assert result.endswith(words)


def joint_summary(*, epochs=12, modes=1, stopped_by="epochs", validating=0, asked=12):
    """Summary of a joint reconstruction of 60 patterns, 16 per step: 4 steps per epoch, R above its floor."""
    own = {"modes": modes, "batch_size": 16, "epochs": asked}
    reported = {"epochs": epochs, "patterns": {"used": 60}, "stopped_by": stopped_by}
    validation = {"patterns": validating} if validating else None
    return summary(0.016, 0.006, reconstruction=own) | reported | {"validation": validation}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "try --epochs 100, then --modes 3"),
        ({"validating": 12}, "try --epochs 134, then --modes 3"),
        ({"epochs": 99, "asked": 99}, "try --epochs 100, then --modes 3"),
        ({"epochs": 100, "asked": 100}, "try --modes 3"),
        ({"stopped_by": "early stopping"}, "try --modes 3"),
        ({"stopped_by": "max_seconds", "asked": 200}, "try a longer --max-seconds, then --modes 3"),
        ({"stopped_by": "max_seconds"}, "try a longer --max-seconds and --epochs 100, then --modes 3"),
        ({"modes": 3}, "try more --epochs, --modes 5, --correct-positions, --fit-background"),
    ],
)
def test_after_a_short_fit_more_epochs_come_before_more_modes(given, words):
    """CLI-26: 400 steps first."""
    assert hint("reconstruct", joint_summary(**given)) == f"R 0.016 is above its floor 0.006: {words}"


@pytest.mark.parametrize(
    "reported",
    [
        {},
        {"probe": {"calibrated": False, "calibration": None}},
        calibrated(0.009),
        calibrated(None, None),
        calibrated(math.nan),
        calibrated(floor=0.0),
        calibrated(training={"collapsed": True}),
        summary(0.016, 0.006, model={"modes": 1}),
    ],
)
def test_a_training_without_problems_gives_no_hint(reported):
    """CLI-26: at its floor, not calibrated, without figures, collapsed."""
    assert hint("train", reported) is None


def uniform_training(architecture="cnn", weight=0.0):
    """Summary of a training that collapsed twice."""
    training = {"collapsed": True, "restarts": 1, "uniform_loss": 0.2, "losses": {"val_loss": 0.21}}
    return {
        "training": training,
        "settings": {"model": {"architecture": architecture}, "training": {"supervised_weight": weight}},
    }


def test_a_collapsed_training_says_so():
    """CLI-28: what it means, and only what was not yet tried."""
    result = str(collapsed(uniform_training(), "out/model.safetensors"))
    assert "out/model.safetensors: expected a val_loss below 0.98 of a uniform object's 0.2, found 0.21" in result
    assert "train with more --epochs, or --architecture unrolled, or --synthetic N with --supervised-weight" in result
    assert "[training.collapsed]" in result
    other = str(collapsed(uniform_training("unrolled", 1.0), "m"))
    assert "--architecture" not in other
    assert "--supervised-weight" not in other
    assert collapsed({"training": {"collapsed": False}}, "m") is None
    assert collapsed({}, "m") is None


def with_report(work, report):
    """A training whose summary has more entries."""

    def train(*args, **options):
        model, summary = work(*args, **options)
        return model, summary | report

    return train


def test_a_collapsed_training_ends_with_exit_1_and_its_files(backend, data_file, tmp_path, capsys, monkeypatch):
    """CLI-28: one line on stderr; the bundle and the summary are there."""
    work = backend.train
    monkeypatch.setattr(backend, "train", with_report(work, uniform_training()))
    argv = ["train", str(data_file), "--output-dir", str(tmp_path / "out"), "--quiet"]
    assert main(argv) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "training.collapsed" in error
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"model.safetensors", "report.html", "summary.json"}
    monkeypatch.setattr(
        backend, "train", lambda *args, **options: (None, work(*args, **options)[1] | uniform_training())
    )
    argv[3] = str(tmp_path / "rank1")
    assert main(argv) == 0  # the first rank speaks for all


def test_inference_with_a_collapsed_model_warns(backend, data_file, tmp_path, capsys, monkeypatch):
    """CLI-28: one line on stderr, quiet or not, and the image all the same."""
    work = backend.infer
    reported = {"training_collapsed": True}

    def infer(*args, **options):
        image, summary = work(*args, **options)
        return image, summary | reported

    monkeypatch.setattr(backend, "infer", infer)
    argv = ["infer", str(data_file), str(data_file), "--output-dir", str(tmp_path / "out"), "--quiet"]
    assert main(argv) == 0
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "its training collapsed" in error
    reported["training_collapsed"] = False
    assert main([*argv, "--overwrite"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("figures", [(0.009, 0.006), (0.016, None), (None, 0.006), (math.nan, 0.006), (1.0, 0.0)])
def test_no_hint_near_the_floor_or_without_figures(figures):
    assert hint("reconstruct", summary(*figures, reconstruction={"modes": 1})) is None


def test_a_training_reports_its_val_loss_beside_a_uniform_object_s(backend, data_file, tmp_path, capsys, monkeypatch):
    """CLI-10."""
    work = backend.train
    reported = {"training": {"losses": {"val_loss": 0.00364}, "uniform_loss": 0.0203}}
    monkeypatch.setattr(backend, "train", with_report(work, reported))
    argv = ["train", str(data_file), "--output-dir", str(tmp_path / "out")]
    assert main(argv) == 0
    model = tmp_path / "out" / "model.safetensors"
    assert capsys.readouterr().out.startswith(f"wrote {model}; val_loss 0.00364, a uniform object's 0.0203")


def test_the_hint_is_one_more_line_on_stdout(backend, data_file, tmp_path, capsys, monkeypatch):
    """CLI-26, and CLI-24: quiet silences it."""
    work = backend.reconstruct
    far = summary(0.016, 0.006, reconstruction={"modes": 1})
    monkeypatch.setattr(backend, "reconstruct", lambda *args, **options: (work(*args, **options)[0], far))
    argv = ["reconstruct", str(data_file), "--output-dir", str(tmp_path / "out")]
    assert main(argv) == 0
    assert capsys.readouterr().out.splitlines()[1:] == ["R 0.016 is above its floor 0.006: try --modes 3"]
    assert main([*argv, "--quiet", "--overwrite"]) == 0
    assert capsys.readouterr().out == ""
