"""Scores beside a truth and without one (specs/cli.md, CLI-16 to CLI-18)."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from ptycho_cli.main import main
from ptycho_cli.options import RECONSTRUCT_OPTIONS
from ptycho_cli.output.evaluation import in_words
from ptycho_contracts.config import ExecutionConfig, ReconstructionConfig
from ptycho_contracts.records import Reconstruction
from ptycho_data.deadline import Deadline
from ptycho_data.files import read_scan, write_reconstruction, write_scan
from ptycho_data.metrics import FrcCurve, frc
from ptycho_data.workflows import evaluate_scan
from ptycho_data.workflows.evaluate import split_in_halves

M, N = 40, 16


def texture(seed: int, shape=(48, 52)) -> np.ndarray:
    """A smooth complex object with contrast."""
    rng = np.random.default_rng(seed)
    low = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.fftfreq(shape[1])) < 0.12
    fields = [np.fft.ifft2(np.fft.fft2(rng.standard_normal(shape)) * low).real for _ in range(2)]
    amplitude, phase = (field / np.abs(field).max() for field in fields)
    return ((1 + 0.3 * amplitude) * np.exp(0.8j * phase)).astype(np.complex64)


@pytest.fixture
def truth_file(tmp_path, scan):
    """A scan with a true object whose pixel [0, 0] is at y 2, x 3."""
    rng = np.random.default_rng(1)
    counts = np.concatenate([scan.measurements] * 4)[:M]
    path = tmp_path / "truth.npz"
    write_scan(
        path,
        replace(
            scan,
            measurements=counts,
            positions_px=rng.uniform(14, 36, (M, 2)),
            scan_index=np.zeros(M, np.int64),
            object_truth=texture(0),
            object_origin_yx_px=np.array([2.0, 3.0]),
        ),
    )
    return path


def image_of(object_, *, origin=(2.0, 3.0), weight=None) -> Reconstruction:
    return Reconstruction(
        object=object_.astype(np.complex64),
        origin_yx_px=np.array(origin),
        weight=np.ones(object_.shape, np.float32) if weight is None else weight,
        probe=np.ones((1, N, N), np.complex64),
        positions_px=np.zeros((M, 2)),
    )


def evaluated(capsys, *words) -> dict:
    """The JSON object of a run."""
    assert main(["evaluate", *map(str, words), "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out, parse_constant=pytest.fail)


def test_a_perfect_image_scores_one_whatever_its_scale_phase_and_canvas(truth_file, tmp_path, capsys):
    """CLI-16: origins and weights are used; the margin of weight 0 holds rubbish."""
    cut = texture(0)[5:40, 4:44] * 1.7 * np.exp(0.4j)
    weight = np.ones(cut.shape, np.float32)
    weight[:3] = 0
    cut[:3] = 99
    write_reconstruction(tmp_path / "image.npz", image_of(cut, origin=(7.0, 7.0), weight=weight))
    report = evaluated(capsys, tmp_path / "image.npz", "--truth", truth_file)
    figures = report["figures"]
    assert figures["complex_correlation"] == pytest.approx(1, abs=1e-5)
    assert figures["phase_rmse_rad"] < 1e-4
    assert figures["removed"]["shift_yx_px"] == pytest.approx([0, 0], abs=1e-3)
    assert figures["n_pixels"] == 32 * 40
    assert (figures["frc_half"], report["frc"]["half"], report["frc"]["half_crossing"]) == (1.0, None, "not crossed")
    assert [entry["path"] for entry in report["inputs"]] == [str(tmp_path / "image.npz"), str(truth_file)]


def test_an_error_of_known_size_is_reported(truth_file, tmp_path, capsys):
    """Oracle: white phase noise of 0.1 rad rms."""
    noise = 0.1 * np.random.default_rng(3).standard_normal(texture(0).shape)
    write_reconstruction(tmp_path / "image.npz", image_of(texture(0) * np.exp(1j * noise)))
    figures = evaluated(capsys, tmp_path / "image.npz", "--truth", truth_file)["figures"]
    assert figures["phase_rmse_rad"] == pytest.approx(0.1, rel=0.05)
    assert figures["amplitude_rmse"] < 0.01


def test_another_image_may_be_the_truth_and_lends_its_weight(tmp_path, capsys):
    """CLI-16: pixels that either image never saw do not count."""
    lit = np.ones((48, 52), np.float32)
    lit[:, 30:] = 0
    write_reconstruction(tmp_path / "a.npz", image_of(texture(0)))
    write_reconstruction(tmp_path / "b.npz", image_of(np.where(lit > 0, texture(0), 5), weight=lit))
    figures = evaluated(capsys, tmp_path / "a.npz", "--truth", tmp_path / "b.npz")["figures"]
    assert figures["complex_correlation"] == pytest.approx(1, abs=1e-5)
    assert figures["n_pixels"] == 48 * 30


def test_a_scan_without_truth_is_refused_with_the_reason(data_file, tmp_path, capsys):
    write_reconstruction(tmp_path / "image.npz", image_of(texture(0)))
    assert main(["evaluate", str(tmp_path / "image.npz"), "--truth", str(data_file)]) == 2
    err = capsys.readouterr().err
    assert "the file holds no object" in err
    assert "evaluate the scan without truth: --scan FILE" in err


def test_a_truth_that_its_file_does_not_declare_is_told(truth_file, tmp_path, capsys):
    """CLI-16, SCAN-3: who names a file as the truth says so; that the file does not is never silent."""
    with np.load(truth_file) as content:
        arrays = {name: content[name] for name in content.files if name != "object_kind"}
    np.savez(tmp_path / "unstated.npz", **arrays)
    write_reconstruction(tmp_path / "image.npz", image_of(texture(0)))
    words = ["evaluate", str(tmp_path / "image.npz"), "--truth"]
    told, known = (evaluated(capsys, *words[1:], path) for path in (tmp_path / "unstated.npz", truth_file))
    assert (told["figures"], told["frc"]) == (known["figures"], known["frc"])
    assert (told["truth_declared"], known["truth_declared"]) == (False, True)
    for path, count in ((tmp_path / "unstated.npz", 1), (truth_file, 0)):
        assert main([*words, str(path)]) == 0
        assert capsys.readouterr().out.count("it may be a reconstruction") == count


def test_figures_are_written_beside_an_image_without_touching_it(truth_file, tmp_path, capsys):
    """CLI-18: text, JSON and pictures; other files of the folder stay."""
    write_reconstruction(tmp_path / "object.npz", image_of(texture(0)))
    (tmp_path / "summary.json").write_text("kept")
    words = ["evaluate", str(tmp_path / "object.npz"), "--truth", str(truth_file), "--output-dir", str(tmp_path)]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "complex correlation                  1.0000" in out
    assert "resolution, FRC 0.5 [Nyquist]        not crossed" in out
    written = {path.name for path in tmp_path.iterdir()} - {"object.npz", "summary.json", "truth.npz", "scan.npz"}
    assert written == {"comparison.png", "evaluation.html", "evaluation.json", "frc.png"}
    assert (tmp_path / "summary.json").read_text() == "kept"
    report = json.loads((tmp_path / "evaluation.json").read_text())
    assert set(report["outputs"]) == written - {"evaluation.json"}
    assert report["command"] == ["ptycho-cli", *words]
    for name in ("comparison.png", "frc.png"):
        with Image.open(tmp_path / name) as picture:
            assert np.asarray(picture.convert("L")).std() > 5
    assert main([*words, "--quiet", "--overwrite"]) == 0
    assert capsys.readouterr().out == ""


def test_the_resolution_is_in_nanometres_where_the_pixel_is_known(truth_file, tmp_path, capsys):
    """CLI-18, MET-14: half a period of 10 nm pixels, in text and JSON."""
    noise = 0.3 * np.random.default_rng(3).standard_normal(texture(0).shape)
    write_reconstruction(tmp_path / "image.npz", replace(image_of(texture(0) * np.exp(1j * noise)), pixel_size_m=1e-8))
    words = (tmp_path / "image.npz", "--truth", truth_file)
    report = evaluated(capsys, *words)
    curve = report["frc"]
    assert report["object_pixel_size_m"] == 1e-8
    assert curve["half_crossing"] == "crossed"
    assert curve["half_period_m"] == pytest.approx(1e-8 / curve["half"])
    assert main(["evaluate", *map(str, words)]) == 0
    expected = f"resolution, FRC 0.5 [Nyquist]        {curve['half']:.4f} ({10 / curve['half']:.3g} nm)"
    assert expected in capsys.readouterr().out


@pytest.mark.parametrize(
    ("half", "half_bit", "words"),
    [
        (0.4322, 0.5284, "FRC 0.5 at 0.4322, half-bit at 0.5284 of Nyquist"),
        (0.4322, 1.0, "FRC 0.5 at 0.4322 of Nyquist, half-bit not crossed"),
        (1.0, 0.5284, "FRC 0.5 not crossed, half-bit at 0.5284 of Nyquist"),
        (1.0, 1.0, "FRC 0.5 not crossed, half-bit not crossed"),
        (None, None, "FRC 0.5 undefined, half-bit undefined"),
    ],
)
def test_a_resolution_in_words(half, half_bit, words):
    """MET-14."""
    curve = FrcCurve(np.ones(1), np.ones(1), np.ones(1), half, half_bit)
    assert in_words(curve.to_dict()) == words


def test_a_resolution_in_words_with_nanometres():
    """MET-14."""
    curve = FrcCurve(np.ones(1), np.ones(1), np.ones(1), 0.4, 0.5).to_dict(pixel_size_m=1e-8)
    assert in_words(curve) == "FRC 0.5 at 0.4000 (25 nm), half-bit at 0.5000 (20 nm) of Nyquist"


@given(M=st.integers(0, 60), seed=st.integers(0, 5), data=st.data())
def test_halves_are_disjoint_complete_and_as_the_spec_says(M, seed, data):
    """CLI-17."""
    used = np.array(sorted(data.draw(st.sets(st.integers(0, 99), min_size=M, max_size=M))), np.int64)
    first, second = split_in_halves(used, seed)
    assert sorted([*first, *second]) == list(used)
    assert 0 <= len(first) - len(second) <= 1
    expected = np.sort(np.random.default_rng(seed).permutation(used)[: (M + 1) // 2])
    np.testing.assert_array_equal(first, expected)


class HalvesBackend:
    """A backend whose image has different noise in each run, less of it with more epochs and patterns."""

    def __init__(self) -> None:
        self.runs: list[dict] = []

    def reconstruct(self, backend, scan, *, config, execution_config, hold_out, deadline, progress=None):
        used = np.setdiff1d(np.arange(len(scan)), hold_out)
        noise = np.random.default_rng(len(self.runs)).standard_normal((48, 52, 2)) @ [0.3, 0.3j]
        self.runs.append(
            {
                "config": config,
                "used": used,
                "probe": scan.probe,
                "deadline": deadline,
                "mean_counts": scan.counts().sum((1, 2), dtype=np.float64).mean(),
                "image": texture(0) + noise / config.epochs,
            }
        )
        if progress is not None:
            progress("reconstruction", 1, 1)
        figures = {"used": 0.02, "held_out": 0.021 if len(used) < len(scan) else None}
        floors = {"used": 0.01, "held_out": 0.01 if len(used) < len(scan) else None}
        result = replace(image_of(self.runs[-1]["image"]), probe=np.full((config.modes, N, N), 2, np.complex64))
        return result, {
            "residual": figures,
            "poisson_floor": floors,
            "epochs": config.epochs,
            "losses": [0.1, 0.05],
            "seed": config.seed,
            "prior": {"kind": config.prior or "network", "acted": config.prior != "none"},
            "residual_map": {"edges_x_px": [0, 2], "edges_y_px": [0, 3], "residual": [[0.1 * len(self.runs)]]},
        }


@pytest.fixture
def halves(monkeypatch, backend) -> HalvesBackend:
    made = HalvesBackend()
    monkeypatch.setattr("ptycho_data.workflows.evaluate.reconstruct", made.reconstruct)
    return made


def test_a_scan_is_halved_and_its_halves_are_compared(halves, truth_file, tmp_path, capsys):
    """CLI-17: five runs without a prior, one with it; the FRC is that of the two halves' images.

    Oracle: MET-13 on these, not aligned.
    """
    words = ("--scan", truth_file, "--epochs", "6", "--modes", "2", "--seed", "3", "--output-dir", tmp_path / "out")
    report = evaluated(capsys, *words)
    full, a, b, early_a, early_b, guided = halves.runs
    assert [run["config"].epochs for run in halves.runs] == [6, 6, 6, 3, 3, 6]
    assert [run["config"].prior for run in halves.runs] == [*["none"] * 5, None]
    np.testing.assert_array_equal(guided["used"], full["used"])
    assert {run["config"].modes for run in halves.runs} == {2}
    assert len(full["used"]) == M
    expected = np.random.default_rng(3).permutation(M)
    np.testing.assert_array_equal(a["used"], np.sort(expected[:20]))
    np.testing.assert_array_equal(b["used"], np.sort(expected[20:]))
    np.testing.assert_array_equal(early_a["used"], a["used"])
    np.testing.assert_array_equal(early_b["used"], b["used"])
    curve = frc(a["image"], b["image"])
    # Alignment may leave a pixel at the border out, so that rings shift a little.
    same_rings = np.interp(curve.frequency, report["frc"]["frequency"], report["frc"]["correlation"])
    np.testing.assert_allclose(same_rings, curve.correlation, atol=0.1)
    assert report["frc"]["half_bit"] == pytest.approx(curve.resolution_half_bit, abs=0.06)
    before = frc(early_a["image"], early_b["image"])
    assert report["frc_before"]["half_bit"] == pytest.approx(before.resolution_half_bit, abs=0.06)
    assert report["residual_over_floor"] == {"used": 2.0, "held_out": None}
    assert [half["patterns"] for half in report["halves"]] == [20, 20]
    assert report["advice"][0]["code"] == "residual.above"
    names = {"comparison.png", "convergence.png", "evaluation.json", "frc.png", "prior.png", "report.html"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names == {"evaluation.json", *report["outputs"]}


def test_the_reconstructions_share_the_time(halves, backend, truth_file):
    """TIME-1: by patterns and epochs; what one leaves is for the next ones. The clock stands still."""
    clock = lambda: 0.0  # noqa: E731
    config, execution = ReconstructionConfig(epochs=6), ExecutionConfig()
    evaluate_scan(
        backend, read_scan(truth_file), config=config, execution_config=execution, deadline=Deadline(100.0, clock=clock)
    )
    given = [run["deadline"].left() for run in halves.runs]
    assert given == pytest.approx([100 / 3.5, 100 * 0.5 / 2.5, 100 * 0.5 / 2, 100 * 0.25 / 1.5, 100 * 0.25 / 1.25, 100])


@pytest.mark.parametrize(
    "row", [row for row in RECONSTRUCT_OPTIONS if row.section == "reconstruction"], ids=lambda row: row.name
)
def test_each_option_reaches_every_reconstruction(halves, truth_file, capsys, row):
    """CLI-17 and invariant 36; hold_out and epochs are the halves' own."""
    value = {bool: not row.default, int: 4, float: 0.5, str: (row.choices or ("0.1",))[0]}[row.type]
    flag = [row.flag] if row.type is bool else [row.flag, str(value)]
    evaluated(capsys, "--scan", truth_file, *flag)
    seen = [getattr(run["config"], row.name) for run in halves.runs]
    if row.name == "hold_out":
        assert len(halves.runs[0]["used"]) == 0.9 * M
    elif row.name == "epochs":
        assert seen == [4, 4, 4, 2, 2, 4]
    elif row.name == "prior":
        assert seen == [value] * 5 + ["none"] * (value != "none")
    elif row.name == "prior_weight":
        assert seen == [value] * 5 + ["auto"]
    else:
        assert seen == [value] * 6


def test_the_scan_is_read_as_asked(halves, truth_file, tmp_path, capsys):
    """CLI-17 and invariant 9: normalised amplitudes get the dose that was given."""
    scan = read_scan(truth_file)
    amplitude = np.sqrt(scan.counts())
    x, y = scan.positions_px.T
    np.savez(tmp_path / "normalised.npz", diff3d=amplitude / amplitude.max(), xcoords=x, ycoords=y)
    words = ("--measurement", "normalised-amplitude", "--nphotons", "12345", "--epochs", "1")
    evaluated(capsys, "--scan", tmp_path / "normalised.npz", *words)
    assert [run["mean_counts"] for run in halves.runs] == pytest.approx([12345] * 4, rel=1e-3)


def test_held_out_patterns_are_in_no_half(halves, truth_file, capsys):
    """CLI-17: held by the library's own rule, seed 0."""
    held = np.random.default_rng(0).permutation(M)[:10]
    report = evaluated(capsys, "--scan", truth_file, "--hold-out", "0.25", "--epochs", "2")
    assert [len(run["used"]) for run in halves.runs] == [30, 15, 15, 15, 15, 30]
    for run in halves.runs:
        assert not np.isin(run["used"], held).any()
    assert report["residual_over_floor"]["held_out"] == pytest.approx(2.1)


def test_what_the_prior_adds(halves, truth_file, capsys):
    """CLI-17: oracle: norms of the two known images; both have the same light everywhere."""
    adds = evaluated(capsys, "--scan", truth_file, "--epochs", "4")["what_the_prior_adds"]
    alone, guided = halves.runs[0]["image"], halves.runs[5]["image"]
    expected = np.linalg.norm(guided - alone) / np.linalg.norm(alone - alone.mean())
    assert adds["difference"] == pytest.approx(expected, rel=0.1)  # the alignment takes out a scale and a ramp
    assert adds["kind"] == "network"
    assert adds["acted"] is True
    assert adds["residual_map"]["with"]["residual"] == [[pytest.approx(0.6)]]
    assert adds["residual_map"]["without"]["residual"] == [[pytest.approx(0.1)]]


@pytest.mark.parametrize(("words", "runs", "known"), [(("--prior", "none"), 5, False), (("--prior", "tv"), 6, True)])
def test_a_prior_that_is_asked_for_or_not(halves, truth_file, capsys, words, runs, known):
    """CLI-17: without a prior nothing to tell apart; if halves share one, their agreement is not the data's."""
    report = evaluated(capsys, "--scan", truth_file, "--epochs", "4", *words)
    assert len(halves.runs) == runs
    assert ("what_the_prior_adds" in report) is known
    if known:
        assert report["what_the_prior_adds"]["kind"] == "tv"
        assert report["what_the_prior_adds"]["data_alone_half_bit"] is None


def test_one_epoch_has_no_earlier_state(halves, truth_file, capsys):
    report = evaluated(capsys, "--scan", truth_file, "--epochs", "1")
    assert len(halves.runs) == 4
    assert "frc_before" not in report
    assert [entry["code"] for entry in report["advice"]] == ["residual.above"]


def test_the_halves_of_a_scan_without_probe_start_from_the_estimated_one(halves, truth_file, tmp_path, capsys):
    """CLI-17: the file stays as it is."""
    scan = replace(read_scan(truth_file), probe=None)
    write_scan(tmp_path / "bare.npz", scan)
    evaluated(capsys, "--scan", tmp_path / "bare.npz", "--epochs", "2", "--modes", "2")
    assert halves.runs[0]["probe"] is None
    for run in halves.runs[1:]:
        np.testing.assert_array_equal(run["probe"], np.full((2, N, N), 2))
    assert read_scan(tmp_path / "bare.npz").probe is None


def test_options_in_a_file_and_advice_in_words(halves, truth_file, tmp_path, capsys):
    """CLI-4 and CLI-18; a flag beats the file (CLI-3)."""
    (tmp_path / "settings.toml").write_text("backend = 'torch'\n[reconstruction]\nepochs = 4\nmodes = 1\nseed = 1\n")
    words = ["--config", str(tmp_path / "settings.toml"), "--seed", "2"]
    assert main(["evaluate", "--scan", str(truth_file), *words]) == 0
    outcome = capsys.readouterr()
    assert [run["config"].epochs for run in halves.runs] == [4, 4, 4, 2, 2, 4]
    assert {(run["config"].modes, run["config"].seed) for run in halves.runs} == {(1, 2)}
    assert "R 0.02, 2.00 times its Poisson floor 0.01" in outcome.out
    assert "half scans (20 + 20 patterns)" in outcome.out
    assert "of the contrast without it" in outcome.out
    assert "  R with and without                 0.02 and 0.02" in outcome.out
    assert "advice: R is 2.00 times its Poisson floor" in outcome.out
    assert outcome.err.splitlines()[:2] == [
        "all patterns: reconstruction: 1/1 steps, 0.0 s",
        "half a: reconstruction: 1/1 steps, 0.0 s",
    ]
