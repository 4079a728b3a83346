"""Creating and reading a store, against copying the same file, in one run.

    python benchmarks/store.py [--folder FOLDER] [--gigabytes 2] [--rounds 3]

Settings: uint16 Poisson patterns of 128 x 128 in an .npy file, opened as a memory map. Copy and
creation both end with the data synced to disk; each in a process of its own, in turn, medians over
the rounds. A tenth of the data shows whether memory grows with it. Reading: groups of 4 patterns
of 64 x 64 gathered as float32 batches of 64 groups, pages in the cache, against indexing the array
in memory. Memory is the peak resident set, mapped file pages included.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import measuring
import numpy as np


def make_source(path: Path, gigabytes: float, N: int) -> None:
    """Patterns block by block: every one differs."""
    rng = np.random.default_rng(0)
    M = int(gigabytes * 1e9 / (2 * N * N))
    patterns = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint16, shape=(M, N, N))
    block = rng.poisson(30, (256, N, N)).astype(np.uint16)
    for start in range(0, M, 256):
        patterns[start : start + 256] = np.roll(block, start % N, axis=2)[: M - start]
        patterns[start : start + 256, 0, 0] = np.arange(start, min(start + 256, M)) % 60000
    patterns.flush()


def copied(source: Path, target: Path) -> dict[str, float]:
    def work() -> None:
        shutil.copyfile(source, target)
        handle = os.open(target, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)

    return measuring.timed(work)


def positions(M: int) -> np.ndarray:
    return np.random.default_rng(1).uniform(0, 5 * M**0.5, (M, 2))


def created(source: Path, target: Path) -> dict[str, float]:
    from ptycho_contracts.records import Scan
    from ptycho_data.store.stores import create_store

    patterns = np.load(source, mmap_mode="r")
    scan = Scan(measurements=patterns, unit="counts", positions_px=positions(len(patterns)))
    before = measuring.peak_mb()
    figures = measuring.timed(lambda: create_store(target, scan))
    return {**figures, "before_mb": round(before, 1), "peak_mb": round(measuring.peak_mb(), 1), **sizes(target, scan)}


def streamed(source: Path, target: Path) -> dict[str, float]:
    from ptycho_data.store.writer import create_store_from_chunks

    patterns = np.load(source, mmap_mode="r")
    shape, offset = patterns.shape, patterns.offset

    def chunks(start: int):
        rows = 64
        with source.open("rb") as stream:
            stream.seek(offset + start * 2 * shape[1] * shape[2])
            for first in range(start, shape[0], rows):
                count = min(rows, shape[0] - first)
                yield np.frombuffer(stream.read(count * 2 * shape[1] * shape[2]), np.uint16).reshape(-1, *shape[1:])

    def work() -> None:
        create_store_from_chunks(
            target,
            chunks,
            shape=shape,
            dtype=np.uint16,
            unit="counts",
            positions_px=positions(shape[0]),
            resume_key="benchmark",
        )

    figures = measuring.timed(work)
    return {**figures, "peak_mb": round(measuring.peak_mb(), 1)}


def verified(source: Path, target: Path) -> dict[str, float]:
    from ptycho_data.store.stores import verify_store

    return {**measuring.timed(lambda: verify_store(target)), "peak_mb": round(measuring.peak_mb(), 1)}


def sizes(target: Path, scan: object) -> dict[str, float]:
    on_disk = sum(path.stat().st_blocks * 512 for path in target.rglob("*") if path.is_file())
    raw = scan.measurements.nbytes + scan.positions_px.nbytes
    return {"disk_bytes": on_disk, "raw_and_coordinates_bytes": raw, "disk_ratio": round(on_disk / raw, 5)}


def read(source: Path, target: Path) -> dict[str, float]:
    from ptycho_contracts.records import Scan
    from ptycho_data.store.stores import create_store

    patterns = np.load(source)
    store = create_store(target, Scan(measurements=patterns, unit="counts", positions_px=positions(len(patterns))))
    groups = store.groups(gridsize=2, neighbor_count=6)
    order = np.random.default_rng(2).permutation(len(groups))
    means = {0: 1.0}
    rates: dict[str, list[float]] = {"store": [], "in_memory_index_and_cast": []}
    for _ in range(4):  # the first round fills the page cache and does not count
        begin = time.perf_counter()
        for start in range(0, len(order), 64):
            store.batch(groups, order[start : start + 64], mean_counts=means)
        rates["store"].append(4 * len(order) / (time.perf_counter() - begin))
        begin = time.perf_counter()
        for start in range(0, len(order), 64):
            patterns[groups.nn_indices[order[start : start + 64]]].astype(np.float32)
        rates["in_memory_index_and_cast"].append(4 * len(order) / (time.perf_counter() - begin))
    return {f"{name}_patterns_per_s": round(max(values[1:])) for name, values in rates.items()}


PARTS = {"copy": copied, "create": created, "stream": streamed, "verify": verified, "read": read}


def rounds(folder: Path, source: Path, count: int) -> dict[str, object]:
    gigabytes = source.stat().st_size / 1e9
    runs: dict[str, list[dict[str, float]]] = {"copy": [], "create": [], "stream": [], "verify": []}
    for _ in range(count):
        for part in ("copy", "create", "verify", "stream"):
            target = folder / ("copy.npy" if part == "copy" else "store")
            runs[part].append(measuring.alone(__file__, part, source, target))
            if part == "copy":
                target.unlink()
            elif part != "create":
                shutil.rmtree(target)
    speed = {part: round(statistics.median(gigabytes / run["wall_s"] for run in runs[part]), 3) for part in runs}
    return {
        "gigabytes": round(gigabytes, 3),
        "gb_per_s": speed,
        "create_to_copy": round(speed["create"] / speed["copy"], 3),
        "stream_to_copy": round(speed["stream"] / speed["copy"], 3),
        "create_to_copy_median_of_rounds": round(
            statistics.median(a["wall_s"] / b["wall_s"] for a, b in zip(runs["copy"], runs["create"], strict=True)), 3
        ),
        "create_to_copy_by_round": [
            round(a["wall_s"] / b["wall_s"], 3) for a, b in zip(runs["copy"], runs["create"], strict=True)
        ],
        "peak_mb": {part: max(run["peak_mb"] for run in runs[part]) for part in ("create", "stream", "verify")},
        "before_mb": runs["create"][0]["before_mb"],
        "disk_ratio": runs["create"][0]["disk_ratio"],
    }


def main() -> None:
    if len(sys.argv) == 4 and sys.argv[1] in PARTS:
        print(json.dumps(PARTS[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))))
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="store-benchmark-") as name:
        folder = Path(name)
        figures: dict[str, object] = {"machine": measuring.machine()}
        for words, gigabytes in (("tenth", options.gigabytes / 10), ("whole", options.gigabytes)):
            make_source(folder / "source.npy", gigabytes, 128)
            figures[words] = rounds(folder, folder / "source.npy", options.rounds)
        make_source(folder / "source.npy", 0.2, 64)
        figures["read_64x64"] = measuring.alone(__file__, "read", folder / "source.npy", folder / "store")
        figures["bounds"] = {"disk_ratio": 1.02, "create_to_copy": 0.5, "peak_mb": 300, "patterns_per_s": 30000}
    measuring.show(figures)


if __name__ == "__main__":
    main()
