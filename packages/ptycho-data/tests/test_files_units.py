"""UNIT: what the patterns hold."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ptycho_contracts.problems import ContractError
from ptycho_contracts.testing import strategies
from ptycho_data.files import combine_scans, scan_from_arrays
from ptycho_data.files.interpret.optics import ENERGY_UNITS_EV, LENGTH_UNITS_M
from ptycho_data.files.interpret.quantities import factor_of
from ptycho_data.files.interpret.units import decide_unit
from scipy import constants


def photons(rng, mean=30, M=5, N=8):
    return rng.poisson(mean, (M, N, N)).astype(np.float64)


def probe_of(energy, N=8):
    return np.full((1, N, N), np.sqrt(energy) / N, np.complex128)


@given(strategies.generators, st.sampled_from([0.3, 3, 30, 3000, 1e5]), st.sampled_from([np.float32, np.float64]))
def test_photons_are_distinguished_from_their_roots(rng, mean, dtype):
    """Invariant 1: measured, without a declaration or a probe."""
    counts = photons(rng, mean)
    assert decide_unit(counts.astype(dtype)).unit == "counts"
    if dtype is np.float64 or mean < 1e4:
        assert decide_unit(np.sqrt(counts).astype(dtype)).unit == "amplitude"


@given(strategies.generators, st.sampled_from(["u1", "u2", "i4", "i8"]))
def test_integers_are_counts(rng, dtype):
    decision = decide_unit(photons(rng).astype(dtype))
    assert (decision.unit, decision.decided_by) == ("counts", "measured: integer dtype")


@given(strategies.generators, st.floats(0.6, 1.7), st.sampled_from(["counts", "amplitude"]))
def test_the_unit_of_noiseless_patterns_is_decided_by_the_probe(rng, factor, unit):
    """Invariant 1: expected counts are not integers; the probe's energy decides."""
    expected = rng.uniform(3, 900, (5, 8, 8))
    stored = expected if unit == "counts" else np.sqrt(expected)
    decision = decide_unit(stored, probe=probe_of(factor * expected.sum(axis=(1, 2)).mean()))
    assert (decision.unit, decision.decided_by) == (unit, "measured: probe energy")


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e-5])
def test_undeclared_is_refused_with_the_remedy(scale):
    """Invariant 1: values that show nothing, tiny ones too, are never guessed."""
    with pytest.raises(ContractError, match=r"`measurement=counts\|amplitude\|normalised-amplitude`") as caught:
        decide_unit(np.random.default_rng(0).uniform(0, scale, (5, 8, 8)), where="a.npz")
    assert caught.value.codes == ("scan.unit_undeclared",)


def test_values_and_probe_that_disagree_are_refused():
    """Invariant 1: contradictory evidence raises."""
    counts = photons(np.random.default_rng(0))
    with pytest.raises(ContractError) as caught:
        decide_unit(counts, probe=probe_of(np.square(counts).sum(axis=(1, 2)).mean()))
    assert caught.value.codes == ("scan.unit_undeclared",)


def test_order_of_words():
    """Invariant 35: argument, then key, then convention, then measured; the decision says which."""
    counts = photons(np.random.default_rng(0))
    words = {"explicit": "counts", "declared": "amplitude", "convention": "float32 AMPLITUDE sqrt(counts)"}
    assert decide_unit(counts, **words).decided_by == "argument"
    del words["explicit"]
    assert decide_unit(counts, **words).decided_by == "key 'measurement'"
    del words["declared"]
    assert (decide_unit(counts, **words).unit, decide_unit(counts, **words).decided_by) == (
        "amplitude",
        "key 'convention'",
    )
    assert decide_unit(counts, convention="AMPLITUDE or COUNTS").decided_by == "measured: values"
    assert decide_unit(counts, convention="amplitude in text").decided_by == "measured: values"


@pytest.mark.parametrize("source", ["explicit", "declared"])
@pytest.mark.parametrize("truth", ["counts", "amplitude"])
def test_words_that_the_data_contradict_are_refused(source, truth):
    """Invariant 1."""
    counts = photons(np.random.default_rng(0))
    probe = probe_of(counts.sum(axis=(1, 2)).mean())
    stored = counts if truth == "counts" else np.sqrt(counts)
    wrong = {"counts": "amplitude", "amplitude": "counts"}[truth]
    with pytest.raises(ContractError) as caught:
        decide_unit(stored, probe=probe, **{source: wrong})
    assert caught.value.codes == ("scan.unit_contradicted",)
    assert decide_unit(stored, probe=probe, **{source: truth}).unit == truth


def test_unknown_word_is_refused():
    with pytest.raises(ContractError) as caught:
        decide_unit(photons(np.random.default_rng(0)), declared="photons")
    assert caught.value.codes == ("scan.unit",)


def test_bad_pixels_are_no_evidence():
    counts = photons(np.random.default_rng(0))
    counts[:, 0, 0] = 0.5
    bad = np.zeros((8, 8), bool)
    bad[0, 0] = True
    assert decide_unit(counts, bad_pixels=bad).unit == "counts"
    with pytest.raises(ContractError):
        decide_unit(counts)


@given(strategies.generators, st.floats(10, 1e8), st.floats(0.01, 100))
def test_normalised_amplitude_takes_the_dose_and_keeps_the_contrast(rng, dose, scale):
    """Invariant 1: scaling the stored values changes nothing; scaling the dose changes only the dose."""
    from pathlib import Path

    from ptycho_data.files.interpret.assemble import Raw, _in_unit

    counts = rng.uniform(0.1, 9, (3, 6, 6))
    raw = Raw(path=Path("a.npz"), format="npz", patterns=scale * np.sqrt(counts), positions=np.zeros((3, 2)))
    decision = decide_unit(raw.patterns, explicit="normalised-amplitude")
    amplitude, unit, record = _in_unit(raw, decision, dose, None)
    assert unit == "amplitude"
    assert record["factor"] > 0
    np.testing.assert_allclose(
        np.square(amplitude.astype(float)), counts * dose / counts.sum(axis=(1, 2)).mean(), rtol=1e-5
    )


@given(strategies.generators, st.lists(st.integers(1, 6), min_size=2, max_size=4))
def test_the_dose_of_several_scans_is_measured(rng, sizes):
    """Invariant 9: the mean photons of all patterns, whatever the sizes and doses of the scans."""
    scans = [
        scan_from_arrays(rng.poisson(rng.uniform(5, 500), (size, 6, 6)), np.zeros((size, 2)), measurement="counts")
        for size in sizes
    ]
    combined = combine_scans(scans)
    assert combined.metadata["nphotons"] == pytest.approx(combined.counts().sum((1, 2)).mean(), rel=1e-5)


def test_normalised_amplitude_through_a_file(tmp_path):
    """Invariant 1, 9: the caller's dose beats the file's; without any it is an error, and so is one for counts."""
    from ptycho_data.files import read_scan

    content = {"diff3d": np.random.default_rng(0).uniform(0, 1, (4, 8, 8)), "positions_px": np.zeros((4, 2))}
    np.savez(tmp_path / "a.npz", **content, measurement="normalised-amplitude", nphotons=500.0)
    np.savez(tmp_path / "b.npz", **content)
    scan = read_scan(tmp_path / "a.npz")
    assert scan.metadata["nphotons"] == pytest.approx(500)
    assert scan.metadata["measurement"]["unit"] == "normalised-amplitude"
    assert read_scan(tmp_path / "a.npz", nphotons=7e4).metadata["nphotons"] == pytest.approx(7e4)
    with pytest.raises(ContractError) as caught:
        read_scan(tmp_path / "b.npz", measurement="normalised-amplitude")
    assert caught.value.codes == ("scan.nphotons",)
    for unit in ("counts", "amplitude"):
        with pytest.raises(ContractError, match=f"the patterns are {unit}, with a dose of their own") as caught:
            read_scan(tmp_path / "b.npz", measurement=unit, nphotons=7e4)
        assert caught.value.codes == ("config.no_effect",)
    with pytest.raises(ContractError) as caught:
        read_scan(tmp_path / "b.npz", measurement="photons")
    assert caught.value.codes == ("scan.unit",)


def test_physical_units_have_the_factors_of_the_si():
    """FAR-5. Oracle: the prefixes and constants of SciPy."""
    micro = constants.micro
    lengths = {"m": 1, "cm": constants.centi, "mm": constants.milli, "um": micro, "µm": micro, "micron": micro}
    lengths |= {"nm": constants.nano, "A": constants.angstrom, "pm": constants.pico}
    energies = {"J": 1 / constants.electron_volt, "eV": 1, "keV": constants.kilo, "MeV": constants.mega}
    for table, factors in ((LENGTH_UNITS_M, lengths), (ENERGY_UNITS_EV, energies)):
        found = {unit: factor_of(unit, table, where="file") for unit in table}
        assert found == pytest.approx(factors, rel=1e-12, abs=0)
