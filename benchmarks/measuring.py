"""Common parts of the benchmarks: a part of a script run in a process of its own, its time and its peak memory."""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
}


def peak_mb() -> float:
    """Peak resident memory of this process in MB of 10^6 bytes: code, data and mapped file pages.

    Linux counts VmHWM from the start of the program; ru_maxrss, used elsewhere, starts at the parent's peak.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return round(int(line.split()[1]) * 1024 / 1e6, 1)
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)


def timed(work: Callable[[], Any], *, repeats: int = 1) -> dict[str, float]:
    """Least wall and CPU seconds of some runs."""
    wall, cpu = [], []
    for _ in range(repeats):
        begin, used = time.perf_counter(), time.process_time()
        work()
        wall.append(time.perf_counter() - begin)
        cpu.append(time.process_time() - used)
    return {"wall_s": round(min(wall), 4), "cpu_s": round(min(cpu), 4)}


def alone(script: str, *arguments: object) -> dict[str, Any]:
    """Run ``script part ...`` in a fresh process with one thread; it prints one JSON object."""
    words = [sys.executable, script, *map(str, arguments)]
    done = subprocess.run(words, env={**os.environ, **ONE_THREAD}, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(words)} failed:\n{done.stderr}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def machine() -> dict[str, Any]:
    """Where the figures come from."""
    load = [round(value, 2) for value in os.getloadavg()]
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "load_average": load,
        "threads": 1,
    }


def show(figures: dict[str, Any]) -> None:
    """Print the outcome as JSON."""
    print(json.dumps(figures, indent=1))
