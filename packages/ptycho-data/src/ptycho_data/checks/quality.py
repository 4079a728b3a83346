"""Checks of a scan before anyone trains on it. Each check reports its result in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.records import Scan
from scipy.constants import c, e, h
from scipy.ndimage import median_filter, rank_filter
from scipy.spatial import cKDTree

from ptycho_data.checks.detector import overflowed_bits, saturated_values
from ptycho_data.checks.outliers import in_words, outlying_rows

Status = Literal["ok", "warn", "info"]
_BLOCK_BYTES = 1 << 26
_SAMPLED_PATTERNS = 256
_RIM_POWER = 0.05
"""Part of a probe's energy in the outer sixteenth of its window that says it does not fit. Reasoned: of a disc as wide
as the window it is a quarter."""
_LEAST_STEP_PX = 0.1
_NEIGHBOURS = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]])


@dataclass(frozen=True, slots=True)
class Check:
    """Outcome of one check: ``warn`` means that a person should look; ``grave``, that images will be wrong."""

    name: str
    status: Status
    text: str
    grave: bool = False


def verdict(checks: Sequence[Check]) -> str:
    """Whether a scan is fit for use, and what to look at.

    >>> verdict([Check("unit", "ok", "")]), verdict([Check("probe", "warn", ""), Check("unit", "warn", "", grave=True)])
    ('yes', 'no: unit; then look at probe')
    """
    grave = [check.name for check in checks if check.grave]
    rest = [check.name for check in checks if check.status == "warn" and not check.grave]
    if grave:
        return f"no: {', '.join(grave)}" + (f"; then look at {', '.join(rest)}" if rest else "")
    return f"yes, but look at {', '.join(rest)}" if rest else "yes"


@dataclass(frozen=True, eq=False)
class ScanFacts:
    """Statistics that the checks use, gathered in one pass over the patterns.

    Attributes:
        mean_pattern: (N, N) float64, mean counts of each pixel.
        max_pattern: (N, N) float32, largest counts of each pixel.
        pattern_counts: (M,) float64, counts of each pattern.
        step_px: (M,) float64, distance to the nearest other position; empty for one position.
    """

    mean_pattern: NDArray[np.float64]
    max_pattern: NDArray[np.float32]
    pattern_counts: NDArray[np.float64]
    step_px: NDArray[np.float64]


def gather(scan: Scan) -> ScanFacts:
    """One pass over the patterns, in blocks of bounded memory."""
    total = np.zeros((scan.N, scan.N))
    largest = np.zeros((scan.N, scan.N), np.float32)
    sums = np.empty(len(scan))
    rows = max(1, _BLOCK_BYTES // (4 * scan.N**2))
    good = np.ones((scan.N, scan.N), bool) if scan.bad_pixels is None else ~scan.bad_pixels
    for start in range(0, len(scan), rows):
        counts = scan.counts(slice(start, start + rows)) * good
        total += counts.sum(0, dtype=np.float64)
        largest = np.maximum(largest, counts.max(0))
        sums[start : start + rows] = counts.sum((1, 2), dtype=np.float64)
    return ScanFacts(total / len(scan), largest, sums, nearest_distances(scan))


def nearest_distances(scan: Scan) -> NDArray[np.float64]:
    """Distance of each position to the nearest other one of the same scan, in px."""
    distances = []
    for index in np.unique(scan.scan_index):
        own = scan.positions_px[scan.scan_index == index]
        if len(own) > 1:
            distances.append(cKDTree(own).query(own, k=2)[0][:, 1])
    return np.concatenate(distances) if distances else np.empty(0)


def check_scan(scan: Scan, facts: ScanFacts) -> list[Check]:
    """Every check of a scan, in reading order."""
    rows = np.unique(np.linspace(0, len(scan) - 1, min(len(scan), _SAMPLED_PATTERNS)).astype(np.int64))
    good = np.ones((scan.N, scan.N), bool) if scan.bad_pixels is None else ~scan.bad_pixels
    sample = scan.counts(rows) * good
    return [
        _unit(scan, facts),
        _exposure(facts),
        _statistics(sample, facts),
        *_detector(sample * ~odd_pixels(facts)[0]),
        _probe(scan, facts),
        *_window(scan),
        _overlap(scan, facts),
        _positions(scan, facts),
        *_far_field(scan),
        _centre(scan, facts),
        *_pixels(scan, facts),
        _truth(scan),
    ]


def _unit(scan: Scan, facts: ScanFacts) -> Check:
    brightest = float(facts.max_pattern.max())
    mean = facts.pattern_counts.mean()
    text = f"read as {scan.unit}; mean {mean:.4g} photons per pattern, brightest pixel {brightest:.4g}"
    if brightest == 0:
        return Check("unit", "warn", f"read as {scan.unit}; no photons in any pattern: the wrong array?", grave=True)
    if brightest < 1.5:
        return Check(
            "unit",
            "warn",
            text + "; fewer than two photons anywhere: normalised data? give `measurement` and `nphotons`",
            grave=True,
        )
    return Check("unit", "ok", text)


def _exposure(facts: ScanFacts) -> Check:
    sums = facts.pattern_counts
    median = float(np.median(sums))
    odd = int(np.count_nonzero((sums < 0.2 * median) | (sums > 5 * median)))
    text = f"patterns hold {sums.min():.4g} to {sums.max():.4g} photons, median {median:.4g}"
    if not facts.max_pattern.any():
        return Check("exposure", "warn", "patterns hold no photons")
    if odd or median == 0:
        return Check("exposure", "warn", f"{text}; {odd} of {len(sums)} lie more than 5 times off the median")
    return Check("exposure", "ok", text)


def _statistics(sample: NDArray[np.float32], facts: ScanFacts) -> Check:
    """Whether the counts look like photons: whole numbers of spacing 1, at least Poisson variance in dim pixels."""
    counts = sample.astype(np.float64)
    whole = np.rint(counts)
    if np.mean(np.abs(counts - whole) > 1e-3 * np.maximum(1, counts)) > 1e-3:
        return Check(
            "photons",
            "info",
            "not whole numbers of photons (noiseless, averaged, dark-subtracted?): the Poisson floor may not hold",
        )
    step = int(np.gcd.reduce(np.unique(whole).astype(np.int64)))
    if step > 1:
        return Check("photons", "warn", f"counts come in multiples of {step}: detector units? divide by the gain")
    dim = (facts.mean_pattern > 0.02) & (facts.mean_pattern < 0.5)
    if len(counts) < 16 or np.count_nonzero(dim) < 16:
        return Check("photons", "ok", "whole numbers of photons")
    values = counts[:, dim]
    ratio = float(values.var(axis=0, ddof=1).sum() / values.mean(axis=0).sum())
    text = f"whole numbers of photons; dim pixels vary {ratio:.2f} times as Poisson counts of a constant mean would"
    return Check(
        "photons", "ok" if ratio > 0.8 else "warn", text + ("" if ratio > 0.8 else ": thresholded or filtered?")
    )


def _detector(sample: NDArray[np.float32]) -> Iterator[Check]:
    """Warnings only: where nothing is seen, nothing is said."""
    saturated, bits = saturated_values(sample), overflowed_bits(sample)
    if bits is not None:
        text = f"bright pixels next to dark ones, in steps of most of {2**bits}: a {bits}-bit counter began again at 0"
        yield Check("counters", "warn", text + "; attenuate the beam, or mask these pixels", grave=True)
    elif saturated is not None:
        top, values = saturated
        text = f"{values} values of {len(sample)} patterns are {top:.6g}, and hardly any just below: saturated"
        yield Check("saturation", "warn", text + "; mask these pixels (`bad_pixels`)")


def _window(scan: Scan) -> Iterator[Check]:
    """Whether the probe fits into its window of N pixels; warnings only."""
    if scan.probe is None:
        return
    power, rim = np.sum(np.abs(scan.probe) ** 2, axis=0), max(1, scan.N // 16)
    outer = 1 - float(power[rim:-rim, rim:-rim].sum() / max(float(power.sum()), 1e-300))
    if outer > _RIM_POWER:
        text = f"{100 * outer:.0f} % of the probe's energy lies within {rim} px of the edge of its window"
        yield Check("window", "warn", text + ": the probe is wider than N object pixels; bin less, or use a larger N")


def _far_field(scan: Scan) -> Iterator[Check]:
    """Whether the detector is in the far field, where the optics are known: Fresnel number D^2 / (lambda z)."""
    geometry = scan.metadata.get("geometry")
    names = ("photon_energy_ev", "detector_distance_m", "object_pixel_size_m")
    if scan.probe is None or not isinstance(geometry, Mapping) or not all(geometry.get(name) for name in names):
        return
    energy_ev, distance_m, pixel_m = (float(geometry[name]) for name in names)
    width_m = probe_diameter_px(scan.probe) * pixel_m
    number = width_m * width_m / (h * c / (e * energy_ev)) / distance_m  # inf, not an error, for an absurd distance
    text = f"Fresnel number of the probe {number:.2g}"
    if number > 1:
        yield Check(
            "far field", "warn", text + ": the detector is in the near field, which is not modelled", grave=True
        )
    else:
        yield Check("far field", "ok", text)


def _probe(scan: Scan, facts: ScanFacts) -> Check:
    if scan.probe is None:
        return Check("probe", "warn", "no probe in the file: train and reconstruct estimate one from the patterns")
    power = np.sum(np.abs(scan.probe.astype(np.complex128)) ** 2, axis=(1, 2))
    fractions = ", ".join(f"{100 * part:.1f} %" for part in power / max(power.sum(), 1e-300))
    modes = f"{len(power)} mode(s) ({fractions}), {scan.probe_kind}"
    if not facts.pattern_counts.any():
        return Check("probe", "info", modes)
    ratio = float(power.sum() / facts.pattern_counts.mean())
    text = f"{modes}; its energy is {ratio:.4g} times the mean counts"
    if not np.isclose(ratio, 1, rtol=0.05):
        return Check("probe", "warn", text + ": it will be rescaled to them")
    return Check("probe", "ok", text)


def probe_diameter_px(probe: NDArray[np.complex64]) -> float:
    """Diameter of a uniform disc with the probe's participation area ``(sum I)^2 / sum I^2``.

    >>> round(probe_diameter_px(np.ones((1, 10, 10), np.complex64)), 2)
    11.28
    """
    intensity = np.sum(np.abs(probe.astype(np.complex128)) ** 2, axis=0)
    squares = float(np.sum(intensity**2))
    return float(2 * np.sqrt(np.sum(intensity) ** 2 / squares / np.pi)) if squares > 0 else 0.0


def _overlap(scan: Scan, facts: ScanFacts) -> Check:
    if not facts.step_px.size:
        return Check("overlap", "warn", "one position only: nothing overlaps, so nothing can be checked", grave=True)
    step = float(np.median(facts.step_px))
    text = f"nearest neighbours are {step:.3g} px apart (median)"
    if scan.probe is None:
        return Check("overlap", "info", text + "; the overlap needs a probe")
    diameter = probe_diameter_px(scan.probe)
    overlap = 1 - step / diameter if diameter > 0 else 0.0
    text += f", the probe is {diameter:.3g} px wide: linear overlap {100 * overlap:.0f} %"
    if step > diameter:
        return Check("overlap", "warn", text + "; steps beyond the probe: positions in a wrong unit?", grave=True)
    if overlap < 0.5:
        return Check("overlap", "warn", text + "; less than 50 % seldom determines the object")
    return Check("overlap", "ok", text)


def _positions(scan: Scan, facts: ScanFacts) -> Check:
    low, high = scan.positions_px.min(0), scan.positions_px.max(0)
    scans = len(np.unique(scan.scan_index))
    text = f"x {low[0]:.6g} to {high[0]:.6g} px, y {low[1]:.6g} to {high[1]:.6g} px, {scans} scan(s)"
    far = outlying_rows(scan.positions_px, scan.scan_index, scan.N)
    repeated = int(np.count_nonzero(facts.step_px < 1e-6))
    spread = float((high - low).max())
    if len(scan) == 1:
        return Check("positions", "info", text)
    if spread < 1:
        return Check("positions", "warn", text + "; all within one pixel: metres instead of pixels?", grave=True)
    if facts.step_px.size and 1e-6 <= np.median(facts.step_px) < _LEAST_STEP_PX:
        return Check(
            "positions", "warn", f"{text}; steps of {np.median(facts.step_px):.2g} px: wrong unit?", grave=True
        )
    if facts.step_px.size and np.median(facts.step_px) > scan.N:
        return Check("positions", "warn", text + "; steps larger than a pattern: wrong unit?", grave=True)
    if len(far):
        words = f"{len(far)} far from all others: {in_words(scan.positions_px, far)}"
        words += "; correct or leave them out, else no command works"
        return Check("positions", "warn", f"{text}; {words}", grave=True)
    if repeated:
        return Check("positions", "warn", f"{text}; {repeated} positions are repeated")
    return Check("positions", "ok", text)


def _centre(scan: Scan, facts: ScanFacts) -> Check:
    hot, _ = odd_pixels(facts)
    pattern = np.where(hot, 0.0, facts.mean_pattern)  # one pixel shifts no pattern
    total = pattern.sum()
    if total <= 0:
        return Check("centre", "warn", "the patterns are empty")
    axis = np.arange(scan.N)
    y, x = float(pattern.sum(1) @ axis / total), float(pattern.sum(0) @ axis / total)
    middle = scan.N // 2
    text = f"centre of mass of the mean pattern at x {x:.2f}, y {y:.2f}; zero frequency belongs at {middle}"
    quarter = scan.N // 4
    inner = pattern[quarter:-quarter, quarter:-quarter].sum() if quarter else total
    if inner < 0.25 * total:
        return Check(
            "centre", "warn", text + "; most intensity is at the border: are the patterns fftshifted?", grave=True
        )
    if max(abs(x - middle), abs(y - middle)) > max(1.5, 0.03 * scan.N):
        return Check("centre", "warn", text + ": shift the patterns, or expect a phase ramp")
    return Check("centre", "ok", text)


def odd_pixels(facts: ScanFacts) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Hot and dead pixels of the mean pattern, compared with the median of their neighbourhood.

    Hot: more than 20 times the 3 x 3 median (a narrow direct beam still has bright neighbours), plus 5 of its
    standard errors, plus half a photon; and 10 times all but one of its neighbours, of which the edge of a bright
    disc has several. Dead: no photon at all where the 5 x 5 median would give 20 in the whole
    scan.
    """
    close = median_filter(facts.mean_pattern, size=3, mode="nearest")
    around = median_filter(facts.mean_pattern, size=5, mode="nearest")
    second = rank_filter(facts.mean_pattern, rank=-2, footprint=_NEIGHBOURS, mode="constant")
    patterns = len(facts.pattern_counts)
    hot = facts.mean_pattern > 20 * close + 5 * np.sqrt((close + 1 / patterns) / patterns) + 0.5
    hot &= facts.mean_pattern > 10 * second
    dead = (facts.max_pattern <= 0) & (around * patterns > 20)
    return hot, dead


def _pixels(scan: Scan, facts: ScanFacts) -> Iterator[Check]:
    hot, dead = odd_pixels(facts)
    if scan.bad_pixels is not None:
        hot, dead = hot & ~scan.bad_pixels, dead & ~scan.bad_pixels
        yield Check("mask", "info", f"{np.count_nonzero(scan.bad_pixels)} pixels are masked by the file")
    for name, where in (("hot pixels", hot), ("dead pixels", dead)):
        rows = np.argwhere(where)
        if len(rows):
            places = ", ".join(f"[{y}, {x}]" for y, x in rows[:5]) + (" ..." if len(rows) > 5 else "")
            yield Check(name, "warn", f"{len(rows)} at [y, x] = {places}")
        else:
            yield Check(name, "ok", "none")


def _truth(scan: Scan) -> Check:
    if scan.object_truth is None:
        return Check("truth", "info", "no true object in the file")
    return Check("truth", "info", f"true object of {scan.object_truth.shape[1]} x {scan.object_truth.shape[0]} px")
