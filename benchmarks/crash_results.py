"""Runs killed before a file operation in their output folder: no mixture may pass for a set of results.

Imported by ``crash.py --results N``. A child runs ``reconstruct`` (into a free folder, or over other results) or
``train``; it kills itself (SIGKILL) before the n-th time that it opens, makes, links, renames or removes anything in
its folder, n drawn from all of them. Then the folder must hold nothing, the old results, the new ones, or files that
``inspect`` tells do not belong together; and the next run in it (a training resumes, where it has a checkpoint) must
succeed (with ``--overwrite``), with the bits of a run that was not killed, and leave no other names.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

EVENTS = ("open", "os.mkdir", "os.rename", "os.rmdir", "os.remove", "os.link", "os.listdir", "os.scandir", "os.chmod")
KINDS = ("reconstruct", "reconstruct over", "train")
TRAINING = ("--epochs", "2", "--width", "2", "--iterations", "1", "--passes", "1", "--gridsize", "1")


def results_of_kills(place: Path, kills: int, seed: int, backend: str) -> dict[str, Any]:
    """Kill so many runs; figures, with ``wrong``: what must not happen."""
    from ptycho_cli.backends import load_backend
    from ptycho_cli.main import main
    from ptycho_data.fitting import checkpoints

    load_backend(backend)  # once, for all children
    import_module(f"ptycho_{backend}.training")
    import_module("ptycho_cli.plots.maps")
    checkpoints.SPACING_SECONDS = checkpoints.SPACING_FACTOR = 0.0
    chance, outcomes = random.Random(seed), Counter[str]()
    scans = {name: place / f"{name}.npz" for name in ("old", "new")}
    for number, path in enumerate(scans.values()):
        words = ["--N", "16", "--patterns", "36", "--step-px", "2", "--seed", str(number), "--quiet"]
        assert main(["simulate", str(path), *words]) == 0
    whole: dict[str, Any] = {}
    operations, names = {}, {}
    for kind in KINDS:
        for name in ("old", "new"):
            out = place / f"whole {kind} {name}"
            if kind == "reconstruct over" and name == "new":
                run(place / f"whole {kind} old", scans["old"], kind, backend)
                out = place / f"whole {kind} old"
            operations[kind] = run(out, scans[name], kind, backend)
            whole[kind, name] = content(out)
            names[kind] = {path.name for path in out.iterdir()}
    for number in range(kills):
        kind, out = KINDS[number % len(KINDS)], place / f"{number}"
        if kind == "reconstruct over":
            run(out, scans["old"], kind, backend)
        run(out, scans["new"], kind, backend, left=chance.randrange(operations[kind]))
        outcomes[f"{kind}: {state(out, kind, whole)}"] += 1
        resumes = (out / "checkpoints" / "training.safetensors").exists()
        run(out, scans["new"], kind, backend, resume=resumes)
        outcomes[f"next run{', resumed' if resumes else ''}: {state(out, kind, whole)}"] += 1
        left = {path.name for path in out.iterdir()} ^ names[kind]
        outcomes["WRONG names after the next run" if left else "names as of a whole run"] += 1
        shutil.rmtree(out)
    return {
        "kills": kills,
        "file_operations_of_a_run": operations,
        "outcomes": dict(sorted(outcomes.items())),
        "wrong": sum(count for words, count in outcomes.items() if "WRONG" in words),
    }


def run(out: Path, scan: Path, kind: str, backend: str, *, left: int | None = None, resume: bool = False) -> int:
    """Run a command in a child, which kills itself after so many file operations; the number that it did, if not."""
    command = ["train", *TRAINING] if kind == "train" else ["reconstruct", "--epochs", "2"]
    words = [*command, str(scan), "--output-dir", str(out), "--overwrite", "--backend", backend, "--quiet"]
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        from ptycho_cli.main import main

        os.close(reading)
        done = counted(str(out), left)
        code = main(words + (["--resume"] if resume else []))
        os.write(writing, f"{code} {done[0]}".encode())
        os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read().split()
    os.waitpid(pid, 0)
    if left is None:
        assert said[:1] == ["0"], f"{words} failed"
    return int(said[1]) if said else 0


def counted(folder: str, left: int | None) -> list[int]:
    """Count this process' file operations in a folder, and kill it before the one after ``left``."""
    done = [0]

    def count(event: str, args: tuple[Any, ...]) -> None:
        if event in EVENTS and any(isinstance(arg, str | os.PathLike) and folder in str(arg) for arg in args):
            if left is not None and done[0] >= left:
                os.kill(os.getpid(), signal.SIGKILL)
            done[0] += 1

    sys.addaudithook(count)
    return done


def content(out: Path) -> dict[str, Any]:
    """Arrays of the results."""
    if (out / "model.safetensors").exists():
        from ptycho_data.bundle_file import read_bundle

        return dict(read_bundle(out / "model.safetensors").weights)
    with np.load(out / "object.npz") as arrays:
        return dict(arrays)


def state(out: Path, kind: str, whole: dict[str, Any]) -> str:
    """What a folder holds: none, old, new, or files that are told; WRONG for anything else."""
    from ptycho_cli.output.results import is_results_folder, verified
    from ptycho_contracts.problems import ContractError

    if not is_results_folder(out):
        return "none"
    try:
        verified(out)
    except ContractError as error:
        return f"told ({', '.join(sorted(set(error.codes)))})"
    arrays = content(out)
    for name in ("old", "new"):
        expected = whole[kind, name]
        if all(np.array_equal(arrays[key], value) for key, value in expected.items()):
            return name
    return "WRONG content"
