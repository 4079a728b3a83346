"""Groups of neighbours at 10^5 and 10^6 points, against a plain loop over the points, in one run.

    python benchmarks/grouping.py

Settings: uniform random positions, 1 point in 25 px^2, gridsize 2, K = 6, one group per point. The
loop asks a cKDTree for one point at a time and draws with the generator's ``choice``: the plainest
loop that is not quadratic. Each part in a process of its own; memory is the peak resident set.
"""

from __future__ import annotations

import json
import sys

import measuring
import numpy as np

SMALL, LARGE, K = 100_000, 1_000_000, 6


def positions(count: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 5 * count**0.5, (count, 2))


def loop(count: int) -> dict[str, float]:
    from scipy.spatial import cKDTree

    points, rng = positions(count), np.random.default_rng(0)

    def work() -> None:
        tree = cKDTree(points)
        indices = np.empty((count, 4), np.int64)
        offsets, relative = np.empty((count, 1, 2, 1), np.float32), np.empty((count, 1, 2, 4), np.float32)
        for seed in range(count):
            _, neighbours = tree.query(points[seed], k=K + 1)
            members = [seed, *rng.choice(neighbours[1:], 3, replace=False)]
            centre = points[members].mean(axis=0)
            indices[seed] = members
            offsets[seed, 0, :, 0] = centre
            relative[seed, 0] = (centre - points[members]).T

    return {**measuring.timed(work), "peak_mb": measuring.peak_mb()}


def vectorised(count: int, repeats: int) -> dict[str, float]:
    from ptycho_data.grouping.groups import group

    points = positions(count)
    start = measuring.peak_mb()
    group(points[:1000], gridsize=2, neighbor_count=K)
    figures = measuring.timed(lambda: group(points, gridsize=2, neighbor_count=K), repeats=repeats)
    return {**figures, "peak_mb": round(measuring.peak_mb(), 1), "before_mb": round(start, 1)}


def main() -> None:
    if len(sys.argv) > 1:
        part, count, repeats = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
        print(json.dumps(loop(count) if part == "loop" else vectorised(count, repeats)))
        return
    small = measuring.alone(__file__, "vectorised", SMALL, 3)
    plain = measuring.alone(__file__, "loop", SMALL, 1)
    large = measuring.alone(__file__, "vectorised", LARGE, 3)
    measuring.show(
        {
            "machine": measuring.machine(),
            "loop_1e5": plain,
            "group_1e5": small,
            "group_1e6": large,
            "speedup_1e5_wall": round(plain["wall_s"] / small["wall_s"], 1),
            "speedup_1e5_cpu": round(plain["cpu_s"] / small["cpu_s"], 1),
            "ratio_1e6_to_1e5_wall": round(large["wall_s"] / small["wall_s"], 2),
            "ratio_1e6_to_1e5_cpu": round(large["cpu_s"] / small["cpu_s"], 2),
            "peak_mb_1e6": large["peak_mb"],
            "bounds": {"speedup": 20, "ratio": 12, "peak_mb": 400},
        }
    )


if __name__ == "__main__":
    main()
