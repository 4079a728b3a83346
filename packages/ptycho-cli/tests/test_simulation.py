"""simulate and demo (specs/cli.md, CLI-12, CLI-14)."""

from __future__ import annotations

import json
from importlib import import_module
from typing import get_args

import numpy as np
import pytest
from ptycho_cli.commands.simulate import ObjectKind, ProbeKind, ScanKind
from ptycho_cli.main import main
from ptycho_contracts.records import Reconstruction
from ptycho_data.files import read_scan
from ptycho_data.simulate import OBJECTS, PROBES, SCANS

SMALL = ["--patterns", "16", "--N", "32", "--quiet"]


def test_the_kinds_on_offer_are_those_that_exist():
    """Invariant 37: the lists are in the command so that help imports nothing."""
    assert set(get_args(ObjectKind)) == set(OBJECTS)
    assert set(get_args(ProbeKind)) == set(PROBES)
    assert set(get_args(ScanKind)) == set(SCANS)


def simulated(path, *words):
    """A scan made by the command."""
    assert main(["simulate", str(path), *SMALL, *words]) == 0
    return read_scan(path)


def test_same_seed_same_arrays_and_another_seed_another_object(tmp_path):
    """CLI-12."""
    first, again = simulated(tmp_path / "a.npz", "--seed", "5"), simulated(tmp_path / "b.npz", "--seed", "5")
    other = simulated(tmp_path / "c.npz", "--seed", "6")
    for name in ("measurements", "positions_px", "probe", "object_truth"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert not np.array_equal(first.object_truth, other.object_truth)
    np.testing.assert_array_equal(first.probe.shape, other.probe.shape)


@pytest.mark.parametrize(
    ("words", "effect"),
    [
        (["--object", "dead_leaves"], lambda a, b: not np.allclose(a.object_truth, b.object_truth)),
        (["--probe", "zone_plate"], lambda a, b: not np.allclose(a.probe, b.probe)),
        (["--scan", "raster"], lambda a, b: not np.allclose(a.positions_px, b.positions_px)),
        (["--N", "48"], lambda a, b: b.N == 48),
        (["--patterns", "20"], lambda a, b: len(b) == 20),
        (["--step-px", "2"], lambda a, b: np.ptp(b.positions_px) < 0.6 * np.ptp(a.positions_px)),
        (["--photons", "1e4"], lambda a, b: abs(b.counts().sum((1, 2)).mean() - 1e4) < 100),
        (["--modes", "2"], lambda a, b: len(b.probe) == 2),
        (["--no-poisson"], lambda a, b: b.measurements.dtype.kind == "f"),
        (["--background", "50"], lambda a, b: b.counts()[:, 0, 0].mean() > a.counts()[:, 0, 0].mean() + 30),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_each_flag_changes_the_scan(tmp_path, words, effect):
    """Invariant 36."""
    kept = [word for word in SMALL if words[0] not in ("--N", "--patterns") or word == "--quiet"]
    assert main(["simulate", str(tmp_path / "b.npz"), *(kept if len(kept) == 1 else SMALL), *words]) == 0
    assert effect(simulated(tmp_path / "a.npz"), read_scan(tmp_path / "b.npz"))


def test_the_probe_of_another_scan_is_used(tmp_path, data_file, scan):
    made = simulated(tmp_path / "a.npz", "--probe-file", str(data_file))
    assert made.N == scan.N
    ratio = made.probe[0][scan.N // 2, scan.N // 2] / scan.probe[0][scan.N // 2, scan.N // 2]
    np.testing.assert_allclose(made.probe, scan.probe * ratio, rtol=1e-4, atol=1e-4 * abs(made.probe).max())


@pytest.fixture
def oracle(backend, monkeypatch):
    """A backend that returns the truth: the demo must then report a perfect image."""

    def infer(payload, *, checkpoint=None, resume=False, progress=None):
        scan = backend.calls["payload"]["data"]
        truth = Reconstruction(
            object=(1.7 * scan.object_truth * np.exp(0.3j)).astype(np.complex64),
            origin_yx_px=scan.object_origin_yx_px,
            weight=np.ones(scan.object_truth.shape, np.float32),
            probe=scan.probe,
            positions_px=scan.positions_px,
        )
        return truth, {"seed": 0}

    monkeypatch.setattr(backend, "infer", infer)
    monkeypatch.setattr(import_module("ptycho_cli.commands.demo"), "PATTERNS", 100)
    return backend


def test_the_demo_trains_on_one_object_infers_another_and_reports(oracle, tmp_path, capsys):
    """CLI-14: through the same functions as the commands; a perfect image scores 1 (scale and phase are removed)."""
    out = tmp_path / "demo"
    assert main(["demo", "--output-dir", str(out), "--max-seconds", "60"]) == 0
    summary = json.loads((out / "summary.json").read_text(), parse_constant=pytest.fail)
    assert summary["complex_correlation"] == pytest.approx(1, abs=1e-5)
    assert summary["figures"]["phase_ssim"] == pytest.approx(1, abs=1e-4)
    assert summary["train"]["inputs"][0]["path"] == str(out / "train.npz")
    assert oracle.calls["payload"]["data"].metadata["source"] == str(out / "test.npz")
    assert not np.array_equal(read_scan(out / "train.npz").object_truth, read_scan(out / "test.npz").object_truth)
    assert "complex correlation" in capsys.readouterr().out
    assert "| complex correlation | 1.0000 |" in (out / "report.md").read_text()
    assert {path.name for path in out.iterdir()} == {
        "train.npz",
        "test.npz",
        "model",
        "image",
        "comparison.png",
        "report.html",
        "report.md",
        "summary.json",
    }


def test_the_demo_leaves_training_only_its_part_of_the_time(oracle, tmp_path, monkeypatch):
    """CLI-14: training stops early enough for the rest."""
    limits = []
    create = oracle.create_training_payload

    def recorded(*args, **kwargs):
        limits.append(kwargs["overrides"]["max_seconds"])
        return create(*args, **kwargs)

    monkeypatch.setattr(oracle, "create_training_payload", recorded)
    assert main(["demo", "--output-dir", str(tmp_path / "demo"), "--max-seconds", "100", "--quiet"]) == 0
    assert len(limits) == 1
    assert 1 <= limits[0] < 70
