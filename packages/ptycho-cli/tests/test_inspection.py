"""What inspect says of scans, bundles and reconstructions (specs/cli.md, CLI-13)."""

from __future__ import annotations

import json
import struct
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ptycho_cli.main import main
from ptycho_cli.output.inspection import inspect_file
from ptycho_contracts.config import DataConfig, ModelConfig
from ptycho_contracts.problems import ContractError
from ptycho_contracts.records import Scan
from ptycho_data.bundle_file import BundleFile, write_bundle
from ptycho_data.checks import quality
from ptycho_data.checks.quality import check_scan, gather, odd_pixels, probe_diameter_px
from ptycho_data.files import write_reconstruction, write_scan
from ptycho_data.store import create_store


def statuses(scan):
    """Status and text of each check by name."""
    return {check.name: (check.status, check.text) for check in check_scan(scan, gather(scan))}


def test_a_sound_scan_passes_every_check(scan):
    """Oracle of the overlap: intensity exp(-r^2 / 9) has the participation area 18 pi, so 1 - 2 / (2 sqrt 18)."""
    result = statuses(scan)
    assert {name: status for name, (status, _) in result.items() if status != "ok"} == {"truth": "info"}
    assert "1.251e+04" in result["unit"][1]
    assert "linear overlap 76 %" in result["overlap"][1]


def test_the_probe_width_is_that_of_a_disc(scan):
    """Oracle: a uniform disc of radius r has width 2 r, and two equal modes have that of one."""
    y, x = np.mgrid[-32:32, -32:32]
    disc = (x**2 + y**2 < 20**2).astype(np.complex64)
    assert probe_diameter_px(disc[None]) == pytest.approx(40, rel=0.01)
    assert probe_diameter_px(np.stack([disc, disc])) == pytest.approx(40, rel=0.01)


def spoilt(scan, name):
    """The scan with one defect."""
    counts = np.asarray(scan.measurements)
    changes = {
        "probe": {"probe": (scan.probe * 2).astype(np.complex64)},
        "exposure": {"measurements": np.concatenate([counts[:-1], counts[-1:] // 10])},
        "overlap": {"positions_px": scan.positions_px * 8},
        "positions": {"positions_px": scan.positions_px * 1e-6},
        "centre": {"measurements": np.roll(counts, 3, axis=2)},
        "hot pixels": {"measurements": with_pixel(counts, (1, 2), 900)},
        "dead pixels": {"measurements": with_pixel(counts, (8, 8), 0)},
        "photons": {"measurements": (counts * 7).astype(np.uint32)},
        "unit": {"measurements": (counts / counts.max()).astype(np.float32)},
        "saturation": {"measurements": np.minimum(counts, int(counts.max() * 0.6))},
        "window": {"probe": np.ones_like(scan.probe)},
        "far field": {
            "metadata": {
                "geometry": {"photon_energy_ev": 8000.0, "detector_distance_m": 0.01, "object_pixel_size_m": 1e-6}
            }
        },
    }
    return replace(scan, **changes[name])


def with_pixel(counts, place, value):
    """A copy with one detector pixel set in all patterns."""
    changed = counts.copy()
    changed[:, place[0], place[1]] = value
    return changed


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("probe", "4 times the mean counts"),
        ("exposure", "1 of 12"),
        ("overlap", "steps beyond the probe"),
        ("positions", "metres instead of pixels"),
        ("centre", "x 10.8"),
        ("hot pixels", "1 at [y, x] = [1, 2]"),
        ("dead pixels", "1 at [y, x] = [8, 8]"),
        ("unit", "normalised data"),
        ("photons", "multiples of 7"),
        ("saturation", "saturated; mask these pixels"),
        ("window", "within 1 px of the edge of its window"),
        ("far field", "near field"),
    ],
)
def test_each_defect_is_warned_of_by_its_own_check(scan, name, words):
    status, text = statuses(spoilt(scan, name))[name]
    assert status == "warn"
    assert words in text


def test_the_fresnel_number(scan):
    """Oracle: (D p)^2 / (lambda z) with D = 2 sqrt 18 px (the probe of the fixture) and lambda = 1.2398 um eV / E."""
    geometry = {"photon_energy_ev": 10000.0, "detector_distance_m": 2.0, "object_pixel_size_m": 2e-7}
    status, text = statuses(replace(scan, metadata={"geometry": geometry}))["far field"]
    assert status == "ok"
    assert float(text.split()[-1]) == pytest.approx(72 * 4e-14 / (1.23984e-10 * 2), rel=0.05)
    absurd = {**geometry, "detector_distance_m": 1e-310, "object_pixel_size_m": 1e-200}
    assert statuses(replace(scan, metadata={"geometry": absurd}))["far field"][0] == "ok"
    absurd["object_pixel_size_m"] = 1e200
    assert statuses(replace(scan, metadata={"geometry": absurd}))["far field"][0] == "warn"


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_a_counter_that_began_again_at_zero(scan, bits):
    """A bright disc of a little more than the counter holds, with photon noise; without the overflow no warning."""
    y, x = np.mgrid[: scan.N, : scan.N] - scan.N // 2
    bright = 1.2 * 2**bits * np.exp(-(x**2 + y**2) / 20)
    counts = np.random.default_rng(0).poisson(np.broadcast_to(bright, (64, scan.N, scan.N))).astype(np.uint32)
    sound, wrapped = with_counts(counts, scan), with_counts(counts % 2**bits, scan)
    assert "counters" not in statuses(sound)
    status, text = statuses(wrapped)["counters"]
    assert status == "warn"
    assert f"a {bits}-bit counter began again at 0" in text


def test_few_photons_are_not_called_saturated(scan):
    """Poisson counts of a mean of 1 reach their highest value often."""
    counts = np.random.default_rng(2).poisson(1.0, (64, scan.N, scan.N)).astype(np.uint16)
    assert "saturation" not in statuses(with_counts(counts, scan))


def test_a_hot_pixel_does_not_shift_the_centre(scan):
    """One pixel is no reason to shift patterns."""
    result = statuses(replace(scan, measurements=with_pixel(np.asarray(scan.measurements), (1, 2), 60000)))
    assert result["hot pixels"][0] == "warn"
    assert result["centre"][0] == "ok"


def test_steps_in_a_wrong_unit(scan):
    """Steps of a hundredth of a pixel over more than one pixel; steps a little below the probe's width."""
    line = np.stack([np.arange(400) * 0.01, np.zeros(400)], axis=1)
    many = with_counts(np.resize(scan.measurements, (400, scan.N, scan.N)), scan)
    assert "wrong unit" in statuses(replace(many, positions_px=line))["positions"][1]
    assert "less than 50 %" in statuses(replace(scan, positions_px=scan.positions_px * 3))["overlap"][1]


def with_counts(measurements, scan):
    """64 patterns of given counts, at their own positions."""
    positions = np.random.default_rng(0).uniform(0, 30, (len(measurements), 2))
    return replace(scan, measurements=measurements, positions_px=positions, scan_index=np.zeros(len(positions), int))


def test_photon_noise_is_distinguished_from_weaker_noise(scan):
    """Oracle: Poisson counts vary as their mean; one in 26 of 64 patterns, never two, varies .6 times as that."""
    shape = (64, scan.N, scan.N)
    poisson = np.random.default_rng(1).poisson(0.2, shape).astype(np.uint16)
    status, text = statuses(with_counts(poisson, scan))["photons"]
    assert status == "ok"
    assert float(text.split("vary ")[1].split()[0]) == pytest.approx(1, abs=0.1)
    thresholded = np.full(shape, 0, np.uint16)
    thresholded[:, :4] = np.arange(64)[:, None, None] % 5 < 2
    thresholded[:, 4:] = 3
    calm = statuses(with_counts(thresholded, scan))["photons"]
    assert calm[0] == "warn"
    assert "0.60 times" in calm[1]
    assert "thresholded" in calm[1]
    assert statuses(with_counts(poisson * np.float32(0.37), scan))["photons"][0] == "info"


def test_patterns_with_zero_frequency_in_the_corner_are_noticed(scan):
    shifted = replace(scan, measurements=np.fft.ifftshift(scan.measurements, axes=(1, 2)))
    assert "fftshifted" in statuses(shifted)["centre"][1]


def test_masked_pixels_are_not_reported_again(scan):
    mask = np.zeros((scan.N, scan.N), bool)
    mask[1, 2] = True
    hot = replace(spoilt(scan, "hot pixels"), bad_pixels=mask)
    assert statuses(hot)["hot pixels"][0] == "ok"
    assert statuses(hot)["mask"][0] == "info"


def test_a_scan_without_probe_is_warned_of(scan):
    result = statuses(replace(scan, probe=None))
    assert result["probe"][0] == "warn"
    assert result["overlap"][0] == "info"


@given(radius=st.floats(1.5, 14), y=st.floats(15, 17), x=st.floats(15, 17), counts=st.sampled_from([3, 40, 5000]))
def test_a_bright_field_disc_has_no_hot_pixels(radius, y, x, counts):
    """CLI-50: a sharp edge is none, whichever the pixels are on it; of electrons the rest of the pattern is dark."""
    rows, columns = np.mgrid[:32, :32]
    disc = np.hypot(rows - y, columns - x) < radius
    patterns = np.random.default_rng(0).poisson(counts * disc, (9, 32, 32)).astype(np.uint16)
    positions = np.stack(np.mgrid[:3, :3], -1).reshape(-1, 2).astype(float)
    hot, dead = odd_pixels(gather(Scan(measurements=patterns, unit="counts", positions_px=positions)))
    assert not hot.any()
    assert not dead.any()


@given(row=st.integers(0, 15), column=st.integers(0, 15))
def test_one_hot_pixel_anywhere_is_detected_and_no_other(scan, row, column):
    hot, _ = odd_pixels(
        gather(replace(scan, measurements=with_pixel(np.asarray(scan.measurements), (row, column), 60000)))
    )
    assert np.argwhere(hot).tolist() == [[row, column]]


def test_text_and_json_say_the_same_and_previews_are_drawn(data_file, tmp_path, capsys):
    out = tmp_path / "previews"
    assert main(["inspect", str(data_file), "--output-dir", str(out)]) == 0
    text = capsys.readouterr().out
    assert main(["inspect", str(data_file), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["kind"] == "scan"
    assert report["arrays"]["measurements"] == "(12, 16, 16) uint16"
    assert report["facts"]["unit"] == "counts"
    for check in report["checks"]:
        assert check["text"] in " ".join(text.split())
    assert max(map(len, text.splitlines()[1:-4])) <= 100
    assert report["facts"]["sha256"] not in text
    assert report["fit_for_use"] == "yes"
    assert f"ptycho-cli reconstruct {data_file} --output-dir OUT" in text
    assert {path.name for path in out.iterdir()} == {"mean_pattern.png", "positions.png", "probe.png"}
    assert min(path.stat().st_size for path in out.iterdir()) > 2000


@pytest.mark.parametrize(
    ("defect", "verdict"),
    [
        ("hot pixels", "yes, but look at probe, hot pixels"),
        ("positions", "no: positions"),
        ("far field", "no: far field"),
    ],
)
def test_inspect_ends_with_a_verdict_and_the_next_command(scan, tmp_path, capsys, defect, verdict):
    """CLI-13: what would spoil every image says no; what may be lived with, but."""
    changed = spoilt(scan, defect)
    assert quality.verdict(check_scan(changed, gather(changed))) == verdict
    if defect == "far field":  # its geometry does not fit the file's other figures
        return
    write_scan(tmp_path / "a scan.npz", changed)
    assert main(["inspect", str(tmp_path / "a scan.npz")]) == 0
    *_, told, then = capsys.readouterr().out.splitlines()
    assert told.split("use", 1)[1].strip() == verdict
    file = f"'{tmp_path / 'a scan.npz'}'"
    assert (f"reconstruct {file} --output-dir OUT" if verdict.startswith("yes") else f"inspect {file}") in then


def test_a_reconstruction_is_recognised_by_its_content(reconstruction, tmp_path, capsys):
    path = tmp_path / "any name.npz"
    write_reconstruction(path, reconstruction)
    assert main(["inspect", str(path), "--json", "--output-dir", str(tmp_path / "previews")]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["kind"] == "reconstruction"
    assert report["arrays"]["object"] == "(20, 24) complex64"
    assert report["facts"]["origin_yx_px"] == [5.0, -3.0]
    assert report["facts"]["seen"] == "66.7 % of the canvas"
    assert [path.rsplit("/", 1)[-1] for path in report["previews"]] == [
        "amplitude.png",
        "phase.png",
        "coverage.png",
        "probe.png",
    ]


MODEL = BundleFile(
    config=ModelConfig(architecture="cnn", modes=2, data=DataConfig(N=8, gridsize=2)),
    weights={"network.a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "network.b": np.ones(4, np.float32)},
    probe=np.ones((2, 8, 8), np.complex64),
    mean_counts=812.5,
    provenance={"seed": 5, "settings": {"data": {"N": 8}}, "training": {"epochs": 7, "fraction": 0.123456789}},
)


@pytest.fixture
def bundle(tmp_path):
    """A small model on disk."""
    write_bundle(tmp_path / "model.safetensors", MODEL)
    return tmp_path / "model.safetensors"


def test_a_bundle_tells_its_arrays_and_settings(bundle, capsys):
    assert main(["inspect", str(bundle), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["kind"] == "bundle"
    assert report["arrays"] == {
        "probe": "(2, 8, 8) complex64",
        "network.a.weight": "(2, 3) float32",
        "network.b": "(4,) float32",
    }
    assert report["facts"]["values"] == 2 * 64 + 6 + 4
    assert report["facts"]["mean_counts"] == 812.5
    assert report["facts"]["provenance"] == dict(MODEL.provenance)
    assert report["facts"]["config"]["model"]["modes"] == 2


def test_options_of_a_bundle_are_shown_by_section(bundle, capsys):
    """CLI-13: tables in tables, each in its own line; numbers in six figures."""
    assert main(["inspect", str(bundle)]) == 0
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert next(words for name, words in lines if name == "config.data").startswith("N 8, gridsize 2")
    assert ["provenance", "seed 5"] in lines
    assert ["provenance.training", "epochs 7, fraction 0.123457"] in lines
    assert not {"config", "provenance.settings"} & {line[0] for line in lines}


@given(data=st.data())
def test_a_bundle_cut_or_altered_anywhere_is_one_clear_error(tmp_path_factory, data):
    """Invariant 44: also a single bit, which the tensors' own format does not notice."""
    path = tmp_path_factory.mktemp("bundle") / "model.safetensors"
    write_bundle(path, MODEL)
    whole = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(whole) - 1))
    if data.draw(st.booleans()):
        path.write_bytes(whole[:at])
    else:
        whole[at] ^= 1 << data.draw(st.integers(0, 7))
        path.write_bytes(whole)
    try:
        found = inspect_file(path)
    except ContractError:
        return
    # What no checksum covers: spaces of the header, and the order of its keys.
    assert found.facts["provenance"] == dict(MODEL.provenance)
    assert found.facts["mean_counts"] == MODEL.mean_counts


def test_a_bit_flipped_in_a_weight_is_exit_2(bundle, capsys):
    whole = bytearray(bundle.read_bytes())
    whole[-1] ^= 1
    bundle.write_bytes(whole)
    assert main(["inspect", str(bundle)]) == 2
    assert "altered" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content",
    [
        b"\xff" * 64,
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 4) + b"null",
        struct.pack("<Q", 1 << 40) + b"{}",
        struct.pack("<Q", 7) + b'{"a":1}',
        struct.pack("<Q", 28) + b'{"a": {"data_offsets": [0]}}',
    ],
)
def test_foreign_bundles_are_one_clear_error(tmp_path, content, capsys):
    """Invariants 44 and 45: nothing is executed, nothing large is read."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    assert main(["inspect", str(path)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_store_is_verified_whole(scan, tmp_path, capsys):
    """CLI-13: the bytes of patterns and groups, which opening alone does not read."""
    create_store(tmp_path / "store", scan).groups(gridsize=2)
    assert main(["inspect", str(tmp_path / "store"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["kind"] == "store"
    assert report["arrays"]["measurements"] == "(12, 16, 16) uint16"
    assert [check["status"] for check in report["checks"]] == ["ok"]
    for victim in (next((tmp_path / "store").glob("groups-*/nn_indices.npy")), tmp_path / "store" / "measurements.npy"):
        sound = victim.read_bytes()
        victim.write_bytes(sound[:-8] + bytes(7) + b"\x33")
        assert main(["inspect", str(tmp_path / "store")]) == 2
        assert f"{victim}: expected checksum" in capsys.readouterr().err
        victim.write_bytes(sound)
    assert main(["inspect", str(tmp_path / "store"), "--orientation"]) == 2
