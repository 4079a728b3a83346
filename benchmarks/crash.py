"""Writers killed at random moments: no store may open wrongly, and the next writer must succeed.

    python benchmarks/crash.py [--moments 50] [--results 0] [--backend torch] [--seed 0]

A child writes a store, in turn by ``create_store`` on a free path, by ``create_store`` over another
store, and by a resumable ``StoreWriter``; it is killed (SIGKILL) at a random moment of its time.
The path must then hold nothing, the old store, or the new one, whole by its checksums. With ``--results N``
as many runs of commands are killed before file operations in their output folder, too (``crash_results.py``).
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import measuring
import numpy as np
from crash_results import results_of_kills
from ptycho_contracts.problems import MissingFileError
from ptycho_contracts.records import Scan
from ptycho_data.store.stores import create_store, open_store, verify_store
from ptycho_data.store.writer import StoreWriter

M, N = 3000, 64
KINDS = ("new", "replacing", "resumable")


def scan_of(seed: int) -> Scan:
    rng = np.random.default_rng(seed)
    patterns = rng.integers(0, 1000, (M, N, N), dtype=np.uint16)
    return Scan(measurements=patterns, unit="counts", positions_px=rng.uniform(0, 300, (M, 2)))


def write(path: Path, kind: str, scan: Scan) -> int:
    """Write the store; the number of patterns that an earlier writer had left."""
    if kind != "resumable":
        create_store(path, scan)
        return 0
    with StoreWriter(
        path,
        shape=scan.measurements.shape,
        dtype=scan.measurements.dtype,
        unit="counts",
        positions_px=scan.positions_px,
        resume_key="crash",
    ) as writer:
        earlier = writer.done
        while writer.done < M:
            writer.append(scan.measurements[writer.done : writer.done + 50])
        writer.commit()
    return earlier


def child(path: Path, kind: str) -> None:
    scan = scan_of(0)
    print("ready", flush=True)
    write(path, kind, scan)


def killed(path: Path, kind: str, delay: float) -> bool:
    """Start a writer, kill it after a delay; whether it was still alive."""
    writer = subprocess.Popen([sys.executable, __file__, "child", str(path), kind], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    writer.stdout.readline()
    time.sleep(delay)
    alive = writer.poll() is None
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    writer.stdout.close()
    return alive


def state(path: Path, scans: dict[str, Scan]) -> str:
    try:
        store = open_store(path)
    except MissingFileError:
        return "none"
    verify_store(path)
    for name, scan in scans.items():
        if np.array_equal(store.positions_px, scan.positions_px):
            return name if np.array_equal(store.measurements, scan.measurements) else "WRONG"
    return "WRONG"


def main() -> None:
    if sys.argv[1:2] == ["child"]:
        child(Path(sys.argv[2]), sys.argv[3])
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("--moments", type=int, default=50)
    parser.add_argument("--results", type=int, default=0)
    parser.add_argument("--backend", default="torch")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    scans = {"new": scan_of(0), "old": scan_of(1)}
    outcomes: Counter[str] = Counter()
    alive = resumed = 0
    with tempfile.TemporaryDirectory(prefix="crash-") as name:
        longest = {}
        for kind in KINDS if options.moments else ():
            begin = time.perf_counter()
            write(Path(name) / f"timed-{kind}", kind, scans["new"])
            longest[kind] = 1.2 * (time.perf_counter() - begin)
        for moment in range(options.moments):
            kind, path = KINDS[moment % len(KINDS)], Path(name) / f"{moment}"
            if kind == "replacing":
                create_store(path, scans["old"])
            alive += killed(path, kind, chance.uniform(0, longest[kind]))
            outcomes[f"{kind}: {state(path, scans)}"] += 1
            resumed += write(path, kind, scans["new"]) > 0
            outcomes[f"next writer: {state(path, scans)}"] += 1
            left = [entry for entry in os.listdir(name) if entry.startswith(f".{moment}.part-")]
            outcomes["parts left after a next writer"] += len(left)
        place = Path(name) / "results"
        place.mkdir()
        results = results_of_kills(place, options.results, options.seed, options.backend) if options.results else {}
    wrong = sum(count for words, count in outcomes.items() if "WRONG" in words)
    measuring.show(
        {
            "moments": options.moments,
            "killed_alive": alive,
            "resumed": resumed,
            "outcomes": dict(outcomes),
            "opened_wrongly": wrong,
            "results": results,
            "bound": 0,
        }
    )
    sys.exit(bool(wrong or results.get("wrong")))


if __name__ == "__main__":
    main()
