"""Random drawings with values in [0, 1], from which simulated objects are made (specs/simulation.md)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage, spatial

Image = NDArray[np.float64]


def stretch(texture: Image, *, blur_px: float, clip_percent: float = 0.5) -> Image:
    """Blur a texture, cut its rare extremes and stretch it to [0, 1]."""
    smooth = ndimage.gaussian_filter(texture, blur_px, mode="reflect") if blur_px > 0 else texture
    low, high = np.percentile(smooth, [clip_percent, 100 - clip_percent])
    if high - low <= 1e-12 * max(1.0, abs(high)):
        return np.zeros_like(smooth)
    stretched: Image = np.clip((smooth - low) / (high - low), 0.0, 1.0)
    return stretched


def field(shape: tuple[int, int], rng: np.random.Generator, *, exponent: float) -> Image:
    """Gaussian random field of unit variance whose power falls as ``frequency ** -exponent``."""
    y = fft.fftfreq(shape[0])[:, None]
    x = fft.rfftfreq(shape[1])[None, :]
    squared = y**2 + x**2
    squared[0, 0] = np.inf  # no mean
    spectrum = fft.rfft2(rng.standard_normal(shape)) * squared ** (-exponent / 4)
    values: Image = fft.irfft2(spectrum, s=shape)
    deviation = values.std()
    return values / deviation if deviation > 0 else values


def segments(
    shape: tuple[int, int], rng: np.random.Generator, *, n_lines: int, thickness_px: tuple[float, float]
) -> tuple[Image, Image]:
    """Two drawings of the same random segments, each segment with an independent value in each."""
    first, second = np.zeros(shape), np.zeros(shape)
    diagonal = float(np.hypot(*shape))
    for _ in range(n_lines):
        centre = rng.uniform((0, 0), shape)
        angle = rng.uniform(0, np.pi)
        half_length = 0.5 * np.exp(rng.uniform(np.log(min(16.0, diagonal)), np.log(2 * diagonal)))
        half_width = 0.5 * np.exp(rng.uniform(*np.log(thickness_px)))
        values = rng.uniform(-1, 1, 2)
        along = np.array([np.sin(angle), np.cos(angle)])
        box = _box(shape, centre, np.abs(along) * half_length + half_width + 1)
        y, x = _grid(box, centre)
        lengthwise = np.clip(y * along[0] + x * along[1], -half_length, half_length)
        distance = np.hypot(y - lengthwise * along[0], x - lengthwise * along[1])
        cover = np.clip(half_width - distance + 0.5, 0, 1)
        first[box] += values[0] * cover
        second[box] += values[1] * cover
    return first, second


def leaves(
    shape: tuple[int, int], rng: np.random.Generator, *, radius_px: tuple[float, float], cover: float
) -> tuple[Image, Image]:
    """Two drawings of the same discs and polygons painted one over the other.

    Radii have density ``r ** -3``; painting stops when the leaves' areas add up to ``cover``
    times the image. One leaf in four is painted in one of the drawings only.
    """
    drawings = rng.uniform(0, 1) * np.ones(shape), rng.uniform(0, 1) * np.ones(shape)
    small, large = radius_px
    painted = 0.0
    while painted < cover * shape[0] * shape[1]:
        radius = (small**-2 - rng.uniform() * (small**-2 - large**-2)) ** -0.5
        centre = rng.uniform((0, 0), shape)
        values, sides, only = rng.uniform(0, 1, 2), int(rng.integers(2, 7)), int(rng.integers(0, 8))
        turn = rng.uniform(0, 2 * np.pi)
        box = _box(shape, centre, np.full(2, radius))
        y, x = _grid(box, centre)
        leaf = np.hypot(y, x) <= radius if sides == 2 else _polygon(y, x, radius, sides, turn)
        for which, drawing in enumerate(drawings):
            if only >= 2 or only == which:
                drawing[box][leaf] = values[which]
        painted += np.pi * radius**2
    return drawings


def fibres(
    shape: tuple[int, int], rng: np.random.Generator, *, n_fibres: int, thickness_px: tuple[float, float]
) -> tuple[Image, Image]:
    """Two drawings of the same bent round fibres: arcs of circles whose value is the thickness along the beam."""
    first, second = np.zeros(shape), np.zeros(shape)
    diagonal = float(np.hypot(*shape))
    y, x = _grid((slice(0, shape[0]), slice(0, shape[1])), np.zeros(2))
    for _ in range(n_fibres):
        radius = diagonal * np.exp(rng.uniform(np.log(0.1), np.log(4.0)))
        half_width = 0.5 * np.exp(rng.uniform(*np.log(thickness_px)))
        through, angle, values = rng.uniform((0, 0), shape), rng.uniform(0, 2 * np.pi), rng.uniform(-1, 1, 2)
        centre = through + radius * np.array([np.sin(angle), np.cos(angle)])
        distance = np.abs(np.hypot(y - centre[0], x - centre[1]) - radius) / half_width
        thickness = np.sqrt(np.clip(1 - distance**2, 0, 1))
        first += values[0] * thickness
        second += values[1] * thickness
    return first, second


def grains(
    shape: tuple[int, int], rng: np.random.Generator, *, size_px: float, boundary_px: float
) -> tuple[Image, Image]:
    """Two drawings of the same polycrystal: nearest-seed cells, each with a value and a slope, and their boundaries."""
    count = max(4, round(shape[0] * shape[1] / size_px**2))
    seeds = rng.uniform((0, 0), shape, (count, 2))
    y, x = np.meshgrid(np.arange(shape[0]), np.arange(shape[1]), indexing="ij")
    distances, cells = spatial.cKDTree(seeds).query(np.stack((y, x), axis=-1), k=2)
    inside = np.clip((distances[..., 1] - distances[..., 0]) / max(boundary_px, 1e-9), 0, 1)
    cell = cells[..., 0]
    offsets = np.stack((y, x), axis=-1) - seeds[cell]
    drawings = []
    for _ in range(2):
        slopes = rng.normal(0, 0.3 / size_px, (count, 2))
        drawings.append((rng.uniform(0, 1, count)[cell] + (offsets * slopes[cell]).sum(-1)) * inside)
    return drawings[0], drawings[1]


def particles(
    shape: tuple[int, int], rng: np.random.Generator, *, radius_px: tuple[float, float], cover: float
) -> tuple[Image, Image]:
    """Two drawings of the same spheres, added up: the value is the thickness along the beam. Radii as of leaves."""
    first, second = np.zeros(shape), np.zeros(shape)
    small, large = radius_px
    painted = 0.0
    while painted < cover * shape[0] * shape[1]:
        radius = (small**-2 - rng.uniform() * (small**-2 - large**-2)) ** -0.5
        centre, share = rng.uniform((0, 0), shape), rng.uniform(0, 1, 2)
        box = _box(shape, centre, np.full(2, radius))
        y, x = _grid(box, centre)
        thickness = np.sqrt(np.clip(radius**2 - y**2 - x**2, 0, None))
        first[box] += share[0] * thickness
        second[box] += share[1] * thickness
        painted += np.pi * radius**2
    return first, second


def star(shape: tuple[int, int], rng: np.random.Generator, *, spokes: int) -> Image:
    """Siemens star about the image's centre, rotated at random, with ring gaps at radii that double."""
    y, x = _grid((slice(0, shape[0]), slice(0, shape[1])), (np.array(shape) - 1) / 2)
    radius, angle = np.hypot(y, x), np.arctan2(y, x) + rng.uniform(0, 2 * np.pi)
    outer = 0.47 * min(shape)
    drawing = (np.sin(spokes * angle) > 0) & (radius < outer)
    for ring in outer / 2.0 ** np.arange(1, 4):
        drawing &= np.abs(radius - ring) > max(1.0, 0.04 * ring)
    return drawing.astype(np.float64)


def _polygon(y: Image, x: Image, radius: float, sides: int, turn: float) -> NDArray[np.bool_]:
    inside = np.ones(np.broadcast_shapes(y.shape, x.shape), bool)
    for angle in turn + 2 * np.pi * np.arange(sides) / sides:
        inside &= y * np.sin(angle) + x * np.cos(angle) <= radius * np.cos(np.pi / sides)
    return inside


def _box(shape: tuple[int, int], centre: Image, half: Image) -> tuple[slice, slice]:
    low = np.maximum(np.floor(centre - half), 0).astype(int)
    high = np.minimum(np.ceil(centre + half) + 1, shape).astype(int)
    return slice(low[0], high[0]), slice(low[1], high[1])


def _grid(box: tuple[slice, slice], centre: Image) -> tuple[Image, Image]:
    rows, columns = box
    return (
        np.arange(rows.start, rows.stop)[:, None] - centre[0],
        np.arange(columns.start, columns.stop)[None, :] - centre[1],
    )
