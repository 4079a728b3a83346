"""What the commands call: payloads in, reconstructions and summaries out (specs/training.md IMG)."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from ptycho_contracts.config import ExecutionConfig, ReconstructionConfig
from ptycho_contracts.problems import ContractError
from ptycho_contracts.testing import reference
from ptycho_data.files import combine_scans, write_scan
from ptycho_data.metrics import compare
from ptycho_torch.backend import infer, reconstruct
from ptycho_torch.bundle import Bundle, save_bundle
from ptycho_torch.config_factory import create_inference_payload

CPU = ExecutionConfig(accelerator="cpu")
HELD = np.sort(np.random.default_rng(0).permutation(64)[:8])


@pytest.fixture
def image(tmp_path, make_model, scan):
    """Image a scan with an untrained model, whose passes of physics already image."""

    def run(data=scan, *, architecture="unrolled", gridsize=2, probe=scan.probe, **overrides):
        model = make_model(probe, architecture=architecture, gridsize=gridsize)
        save_bundle(tmp_path / "model.safetensors", Bundle(model, 5e4, {}))
        write_scan(tmp_path / "scan.npz", data)
        payload = create_inference_payload(
            tmp_path / "model.safetensors", tmp_path / "scan.npz", tmp_path, {"hold_out": 0.125, **overrides}, CPU
        )
        return infer(payload)

    return run


@pytest.fixture
def joint(tmp_path, scan):
    """Reconstruct a scan without a network."""

    def run(data=scan, **options):
        write_scan(tmp_path / "scan.npz", data)
        config = ReconstructionConfig(**{"hold_out": "0.125", "epochs": 3, "modes": 1, **options})
        return reconstruct(tmp_path / "scan.npz", config=config, execution_config=CPU)

    return run


def consistent(result, summary, scan) -> None:
    """Object, probe, weight, origin and residuals belong together, by the NumPy reference."""
    used = np.setdiff1d(np.arange(len(scan)), HELD)
    np.testing.assert_array_equal(result.positions_px, scan.positions_px)
    origin, shape = reference.canvas_geometry(scan.positions_px, scan.N)
    np.testing.assert_array_equal(result.origin_yx_px, origin)
    assert result.object.shape == shape
    mean = scan.counts(used).sum((1, 2), dtype=np.float64).mean()
    assert summary["mean_counts"] == pytest.approx(mean, rel=1e-6)
    assert (np.abs(result.probe.astype(np.complex128)) ** 2).sum() == pytest.approx(mean, rel=1e-4)
    power = np.broadcast_to((np.abs(result.probe) ** 2).sum(0), (len(used), scan.N, scan.N))
    light = reference.scatter_add(power, scan.positions_px[used], shape, origin).real
    np.testing.assert_allclose(result.weight, light, rtol=1e-3, atol=1e-5 * light.max())
    for name, chosen in (("used", used), ("held_out", HELD)):
        patches = reference.extract_patches(result.object, scan.positions_px[chosen], scan.N, origin)
        simulated = reference.simulate_counts(patches, result.probe)
        assert summary["residual"][name] == pytest.approx(reference.residual(simulated, scan.counts(chosen)), rel=1e-3)
        assert summary["poisson_floor"][name] == pytest.approx(reference.poisson_floor(simulated), rel=0.05)
    assert summary["patterns"] == {"used": len(used), "held_out": len(HELD)}
    json.dumps(summary, allow_nan=False)


@pytest.mark.parametrize("assembly", ["canvas", "groups"])
def test_infer(image, scan, assembly):
    """All figures are those of the returned image, normalised to the used patterns (IMG-4)."""
    result, summary = image(assembly=assembly)
    consistent(result, summary, scan)
    assert summary["assembly"] == assembly
    assert summary["mean_counts_of_training"] == 5e4
    assert summary["device"] == "cpu"


def test_reconstruct(joint, scan):
    """The same for a joint reconstruction, with several modes."""
    result, summary = joint(modes=2)
    consistent(result, summary, scan)
    assert result.probe.shape == (2, 32, 32)
    assert len(summary["losses"]) == summary["epochs"] == 3


def test_images_look_like_the_truth(image, joint, scan):
    """Invariant 12, from file to figure: right place, right orientation, right contrast."""
    for result, _ in (image(refine=30), joint(epochs=60, object_learning_rate=0.05, batch_size=4)):
        figures = compare(
            result.object,
            scan.object_truth,
            estimate_origin_yx_px=result.origin_yx_px,
            truth_origin_yx_px=scan.object_origin_yx_px,
            weight=result.weight,
        )
        assert figures.complex_correlation > 0.9


def test_refinement_starts_from_the_network_s_image(image):
    """It lowers the residual, and both are reported."""
    _, summary = image(refine=10)
    assert summary["residual"]["used"] < 0.95 * summary["network"]["residual"]["used"]
    assert len(summary["losses"]) == 10


@pytest.mark.parametrize("how", ["canvas", "groups", "refined", "joint"])
def test_held_out_patterns_change_no_bit(image, joint, scan, how):
    """Invariant 10: only the residual on them changes."""
    altered = np.array(scan.measurements)
    altered[HELD] = altered[HELD][:, ::-1]
    runs = []
    for data in (scan, replace(scan, measurements=altered)):
        if how == "joint":
            runs.append(joint(data))
        else:
            runs.append(image(data, assembly="groups" if how == "groups" else "canvas", refine=2 * (how == "refined")))
    (one, reported), (two, other) = runs
    np.testing.assert_array_equal(one.object, two.object)
    np.testing.assert_array_equal(one.probe, two.probe)
    assert reported["residual"]["used"] == other["residual"]["used"]
    assert reported["residual"]["held_out"] != other["residual"]["held_out"]


def test_same_seed_same_bits(image, joint):
    """Invariant 42."""
    for run in (image, joint):
        np.testing.assert_array_equal(run()[0].object, run()[0].object)
    assert not np.array_equal(joint()[0].object, joint(seed=1)[0].object)


@pytest.fixture(params=["refine", "joint"])
def fitted(request, image, joint):
    """25 epochs of a joint reconstruction, after a network or without one."""

    def run(data, **asked):
        return image(data, refine=25, **asked) if request.param == "refine" else joint(data, epochs=25, **asked)

    return run


def test_positions_are_corrected(fitted, scan):
    """PHY-28: object, moved positions and residual belong together; held-out patterns keep their positions."""
    error = np.random.default_rng(0).normal(0, 0.5, (64, 2))
    spoilt = replace(scan, positions_px=scan.positions_px + error)
    _, kept = fitted(spoilt)
    result, summary = fitted(spoilt, correct_positions=True)
    assert summary["residual"]["used"] < 0.7 * kept["residual"]["used"]
    assert kept["position_correction_rms_px"] == 0
    used = np.setdiff1d(np.arange(64), HELD)
    moved = result.positions_px - spoilt.positions_px
    assert not moved[HELD].any()
    assert summary["position_correction_rms_px"] == pytest.approx(np.sqrt((moved[used] ** 2).sum(1).mean()), rel=1e-6)
    patches = reference.extract_patches(result.object, result.positions_px[used], 32, result.origin_yx_px)
    residual = reference.residual(reference.simulate_counts(patches, result.probe), spoilt.counts(used))
    assert summary["residual"]["used"] == pytest.approx(residual, rel=1e-3)


def test_a_background_is_fitted(fitted, scan):
    """PHY-28: most of 5 counts per pixel are fitted, and the residual includes them."""
    extra = np.random.default_rng(1).poisson(5, scan.measurements.shape)
    spoilt = replace(scan, measurements=np.asarray(scan.measurements) + extra)
    _, kept = fitted(spoilt)
    _, summary = fitted(spoilt, fit_background=True)
    assert kept["background_counts_per_pattern"] == 0
    assert 0.6 < summary["background_counts_per_pattern"] / (5 * 32**2) < 1.1
    for patterns in ("used", "held_out"):
        assert summary["residual"][patterns] < 0.8 * kept["residual"][patterns]


def test_nothing_held_out(image):
    """No residual is reported if there is none."""
    _, summary = image(hold_out=None)
    assert summary["residual"]["held_out"] is None
    assert summary["poisson_floor"]["held_out"] is None


def test_probe_source(image, scan):
    """The bundle's probe, or the file's."""
    tilted = (scan.probe * np.exp(0.05j * np.arange(32))).astype(np.complex64)
    for source, expected in (("bundle", tilted), ("file", scan.probe)):
        result, summary = image(probe=tilted, probe_source=source)
        product = abs(np.vdot(result.probe, expected)) / np.linalg.norm(result.probe) / np.linalg.norm(expected)
        assert product == pytest.approx(1, abs=1e-5)
        assert summary["probe"]["source"] == source


def test_a_file_without_probe(image, joint, scan):
    """The bundle's is enough for inference, unless the file's is requested; a joint reconstruction estimates one."""
    bare = replace(scan, probe=None, object_truth=None, object_origin_yx_px=None)
    result, summary = image(bare)
    assert np.isfinite(result.object).all()
    assert summary["probe"]["overlap_with_file"] is None
    with pytest.raises(ContractError, match=r"scan\.no_probe"):
        image(bare, probe_source="file")
    result, summary = joint(bare, modes=2)
    assert summary["probe"]["search"]["losses"]
    assert result.probe.shape == (2, 32, 32)


def test_several_scans_are_refused(image, joint, scan):
    """IMG-5."""
    both = replace(combine_scans([scan, scan]), object_truths={})
    for attempt in (lambda: image(both), lambda: joint(both)):
        with pytest.raises(ContractError, match=r"scan\.several"):
            attempt()


def test_cnn_infers_by_groups_only(image):
    """IMG-5."""
    result, summary = image(architecture="cnn")
    assert summary["assembly"] == "groups"
    assert np.isfinite(result.object).all()
    with pytest.raises(ContractError, match=r"inference\.assembly"):
        image(architecture="cnn", assembly="canvas")


def test_dark_data_is_refused(image, joint, scan):
    """No photon in what is used."""
    dark = replace(scan, measurements=np.zeros_like(scan.measurements))
    for attempt in (lambda: image(dark, measurement="counts"), lambda: joint(dark)):
        with pytest.raises(ContractError, match=r"scan\.no_photons|counts"):
            attempt()
