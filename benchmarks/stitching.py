"""Stitching 10^5 sub-pixel, weighted patches of 64 x 64, against a plain loop in complex128, in one run.

    python benchmarks/stitching.py

Settings: complex64 patches made batch by batch (not timed), one float32 weight for all, batches of
1000. Positions in the order of a raster with jitter (as measured), and shuffled (the worst order).
Memory: peak resident set beside the canvas (24 bytes per pixel while streaming, and once the complex64
result) and one batch. The loop spreads every patch by four shifted additions, as the formula says.
"""

from __future__ import annotations

import json
import sys
import time

import measuring
import numpy as np
from ptycho_data.canvas.geometry import canvas_geometry, corners_and_fractions
from ptycho_data.canvas.stitching import Stitcher

N, BATCH, COUNT, LOOP = 64, 1000, 100_000, 4000


def positions(count: int, order: str) -> np.ndarray:
    rng = np.random.default_rng(0)
    side = int(np.ceil(count**0.5))
    rows, columns = np.divmod(np.arange(count), side)
    points = np.stack([columns, rows], axis=1) * 5.0 + rng.uniform(-1, 1, (count, 2))
    return points[rng.permutation(count)] if order == "shuffled" else points


def batches(count: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    return (rng.normal(size=(BATCH, N, N)) + 1j * rng.normal(size=(BATCH, N, N))).astype(np.complex64)


def weight() -> np.ndarray:
    axis = np.arange(N) - N // 2
    return np.exp(-(axis[:, None] ** 2 + axis[None] ** 2) / (2 * 14.0**2)).astype(np.float32)


def stitched(count: int, order: str) -> dict[str, float]:
    where, patches, w = positions(count, order), batches(count), weight()
    before = measuring.peak_mb()
    stitcher = Stitcher(canvas_geometry(where, N))
    wall, cpu = time.perf_counter(), time.process_time()
    for start in range(0, count, BATCH):
        stitcher.add(patches[: count - start], where[start : start + BATCH], w)
    stitcher.result()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    pixels = int(np.prod(stitcher.geometry.shape))
    return {
        "patches": count,
        "patches_per_s": round(count / wall),
        "patches_per_cpu_s": round(count / cpu),
        "peak_mb": round(measuring.peak_mb(), 1),
        "before_mb": round(before, 1),
        "canvas_mb": round(pixels * 24 / 1e6, 1),
        "result_mb": round(pixels * 12 / 1e6, 1),
        "batch_mb": round(patches.nbytes / 1e6, 1),
    }


def loop(count: int, order: str) -> dict[str, float]:
    where, patches, w = positions(count, order), batches(count), weight()
    geometry = canvas_geometry(where, N)
    numerator, denominator = np.zeros(geometry.shape, complex), np.zeros(geometry.shape)

    def work() -> None:
        corners, fractions = corners_and_fractions(where, geometry, N)
        for number in range(count):
            (top, left), (down, right) = corners[number], fractions[number]
            for dy, dx, fraction in (
                (0, 0, (1 - down) * (1 - right)),
                (0, 1, (1 - down) * right),
                (1, 0, down * (1 - right)),
                (1, 1, down * right),
            ):
                window = np.s_[top + dy : top + dy + N, left + dx : left + dx + N]
                numerator[window] += fraction * w * patches[number % BATCH]
                denominator[window] += fraction * w

    spent = measuring.timed(work)
    return {
        "patches": count,
        "patches_per_s": round(count / spent["wall_s"]),
        "patches_per_cpu_s": round(count / spent["cpu_s"]),
    }


def main() -> None:
    if len(sys.argv) > 1:
        part, order, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
        print(json.dumps((loop if part == "loop" else stitched)(count, order)))
        return
    measuring.show(
        {
            "machine": measuring.machine(),
            "loop_raster": measuring.alone(__file__, "loop", "raster", LOOP),
            "stitch_raster": measuring.alone(__file__, "stitch", "raster", COUNT),
            "stitch_shuffled": measuring.alone(__file__, "stitch", "shuffled", COUNT),
            "stitch_raster_tenth": measuring.alone(__file__, "stitch", "raster", COUNT // 10),
            "bound_patches_per_s": 20000,
        }
    )


if __name__ == "__main__":
    main()
