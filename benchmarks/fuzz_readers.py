"""Mutated files, bundles and stores through every reader. Prints JSON.

Asked for: only PtychoError, no crash, no hang, bounded memory; a bundle or a store that opens is the one that was
written; a scan that is read can be checked as ``inspect`` does.

    python benchmarks/fuzz_readers.py --cases 10000 --seed 0

Each case is a function of the seed and its number. A worker process reads the cases of one chunk
under limits of address space and CPU time; the parent watches it, so that a crash or a hang of a
C library costs one case and is counted.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np

GEOMETRY = {"photon_energy_ev": 8000.0, "detector_distance_m": 1.0, "detector_pixel_size_m": 75e-6}
CASE_SECONDS = 20
MEMORY_BYTES = 3 << 30
EXTREMES = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 40, (1 << 63) - 1, (1 << 64) - 1]


def seeds(folder: Path) -> list[Path]:
    """One small good file of each format, beside the companions that some need."""
    from ptycho_contracts.records import Reconstruction
    from ptycho_data.files import write_product, write_reconstruction, write_scan
    from ptycho_data.simulate import simulate
    from ptycho_data.store import create_store

    scan = simulate(N=8, n_patterns=6, photons_per_pattern=1e4, seed=0)
    truth, origin = scan.object_truth, scan.object_origin_yx_px
    recon = Reconstruction(
        object=truth,
        origin_yx_px=origin,
        weight=np.ones(truth.shape, np.float32),
        probe=scan.probe,
        positions_px=scan.positions_px,
    )
    write_scan(folder / "contract.npz", scan)
    with np.load(folder / "contract.npz") as plain:
        arrays = dict(plain)
    np.savez_compressed(folder / "deflated.npz", **arrays)
    write_scan(folder / "both.h5", scan, geometry=GEOMETRY)
    write_scan(folder / "scan.cxi", scan, geometry=GEOMETRY)
    write_product(folder / "product.h5", recon, geometry=GEOMETRY, losses=[0.5, 0.1])
    write_reconstruction(folder / "object.npz", recon)
    np.save(folder / "indices.npy", np.arange(6))
    counts = scan.counts().astype(np.uint16)
    _diffraction(folder, counts)
    _training(folder, scan, counts)
    _ptyd(folder, scan, counts)
    _mapping(folder, scan, counts)
    _model(folder)
    create_store(folder / "store", scan).groups(gridsize=2, n_groups=4)
    return sorted(path for path in folder.iterdir() if path.name not in ("mapped.h5",))


def _model(folder: Path) -> None:
    from ptycho_contracts.config import DataConfig, ModelConfig
    from ptycho_data.bundle_file import BundleFile, write_bundle

    weights = {"network.a.weight": np.arange(12, dtype=np.float32).reshape(3, 4), "network.a.bias": np.ones(3, "f4")}
    config = ModelConfig(architecture="cnn", modes=2, data=DataConfig(N=8, gridsize=2))
    content = BundleFile(config, weights, np.ones((2, 8, 8), np.complex64), 100.0, {"seed": 3, "inputs": ["a.npz"]})
    write_bundle(folder / "model.safetensors", content)


def _diffraction(folder: Path, counts: np.ndarray) -> None:
    with h5py.File(folder / "diffraction.h5", "w") as file:
        patterns = file.create_dataset("patterns", data=counts, compression="lzf")
        patterns.attrs["detector_pixel_width_m"] = patterns.attrs["detector_pixel_height_m"] = 75e-6
        file["indexes"] = np.arange(len(counts))
        file["bad_pixels"] = np.zeros(counts.shape[1:], bool)


def _training(folder: Path, scan, counts: np.ndarray) -> None:
    xy = scan.positions_px - scan.object_origin_yx_px[::-1] - 0.5
    with h5py.File(folder / "training.h5", "w") as file:
        file.create_dataset("patterns", data=counts, compression="lzf")
        file["bad_pixels"] = np.zeros(counts.shape[1:], bool)
        file["probe"], file["object"] = scan.probe, scan.object_truth
        file["probe_position_x_px"], file["probe_position_y_px"] = xy.T
        for name, value in (
            ("photon_energy_eV", 8000.0),
            ("detector_object_distance_m", 1.0),
            ("object_pixel_width_m", 2.6e-7),
            ("object_pixel_height_m", 2.6e-7),
        ):
            file[name] = value
    np.savez(
        folder / "export.npz",
        xcoords=xy[:, 0],
        ycoords=xy[:, 1],
        xcoords_start=xy[:, 0],
        ycoords_start=xy[:, 1],
        diff3d=counts,
        bad_pixels=np.zeros(counts.shape[1:], bool),
        probeGuess=scan.probe,
        objectGuess=scan.object_truth,
        scan_index=np.zeros(len(counts), int),
    )


def _ptyd(folder: Path, scan, counts: np.ndarray) -> None:
    with h5py.File(folder / "scan.ptyd", "w") as file:
        file["meta/energy"], file["meta/distance"], file["meta/psize"] = 8.0, 1.0, 75e-6
        for chunk in range(2):
            part = slice(3 * chunk, 3 * chunk + 3)
            file[f"chunks/{chunk}/data"] = counts[part]
            file[f"chunks/{chunk}/indices"] = np.arange(6)[part]
            file[f"chunks/{chunk}/positions"] = scan.positions_px[part, ::-1] * 2.6e-7
            file[f"chunks/{chunk}/weights"] = np.ones((8, 8), bool)


def _mapping(folder: Path, scan, counts: np.ndarray) -> None:
    with h5py.File(folder / "mapped.h5", "w") as file:
        file["a/frames"] = counts
        file["a/x"], file["a/y"] = scan.positions_px.T
    (folder / "map.toml").write_text(
        '[file]\npath = "mapped.h5"\n[patterns]\ndataset = "a/frames"\naxes = "pattern y x"\nunit = "counts"\n'
        'zero_frequency = "measured"\n[positions]\nx = "a/x"\ny = "a/y"\nunit = "px"\nsign = [1, -1]\n'
    )


def mutate(content: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """One to four changes: bits, fields of integers, cuts, copies, insertions, a splice with another file."""
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 5))):
        if not data:
            break
        kind, at = rng.integers(0, 9), int(rng.integers(0, len(data)))
        span = int(rng.integers(1, 65))
        if kind <= 1:
            data[at] ^= 1 << int(rng.integers(0, 8))
        elif kind == 2:
            data[at] = int(rng.integers(0, 256))
        elif kind == 3:
            width = int(rng.choice([2, 4, 8]))
            value = EXTREMES[int(rng.integers(0, len(EXTREMES)))] % (1 << 8 * width)
            data[at : at + width] = value.to_bytes(width, "little")
        elif kind == 4:
            del data[at : len(data) if rng.random() < 0.3 else at + span]
        elif kind == 5:
            data[at : at + span] = bytes(span)
        elif kind == 6:
            source = int(rng.integers(0, len(data)))
            data[at : at + span] = data[source : source + span]
        elif kind == 7:
            data[at:at] = rng.bytes(span)
        else:
            source = int(rng.integers(0, max(1, len(other))))
            data[at : at + 4 * span] = other[source : source + 4 * span]
    return bytes(data)


def odd(array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An array that nobody should store in place of this one."""
    array = np.asarray(array)
    number = array.astype(np.float64) if array.dtype.kind in "biuf" else np.zeros(array.shape)
    ways = [
        lambda: number * np.nan,
        lambda: number * np.inf,
        lambda: -number - 1,
        lambda: number * 0,
        lambda: number * 1e300,
        lambda: number * 1e-300,
        lambda: number * 1e6,
        lambda: number + 1000,
        lambda: array.T,
        lambda: array[:-1] if array.ndim else array,
        lambda: array[..., :-1] if array.ndim else array,
        lambda: array[None],
        lambda: array.reshape(-1),
        lambda: array[:0] if array.ndim else array,
        lambda: array.astype(np.complex128) if array.dtype.kind in "biufc" else array,
        lambda: np.array(b"text"),
        lambda: np.array([b"x", b"yz"]),
        lambda: array.astype(np.int8) if array.dtype.kind in "biuf" else array,
        lambda: array != 0 if array.dtype.kind in "biufc" else array,
        lambda: array.reshape(-1)[0] if array.size else 1,
        lambda: np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
        lambda: array[::-1] if array.ndim else array,
        lambda: np.full(array.shape, np.iinfo(np.int64).min),
        lambda: np.full(array.shape, np.iinfo(np.uint64).max),
        lambda: rng.permutation(array.reshape(-1)).reshape(array.shape),
        lambda: np.zeros((2, 2, 2, 2, 2)),
        lambda: array.astype(array.dtype.newbyteorder(">")),
        lambda: np.zeros(array.shape, np.float16),
        lambda: np.where(rng.random(array.shape) < 0.1, np.nan, number),
        lambda: number.astype(np.longdouble),
    ]
    return np.asarray(ways[int(rng.integers(0, len(ways)))]())


def restructure(path: Path, rng: np.random.Generator) -> None:
    """Replace, remove or rename one or two members of a good archive, which stays well-formed."""
    for _ in range(int(rng.integers(1, 3))):
        if path.suffix == ".npz":
            with np.load(path) as plain:
                arrays = dict(plain)
            name = str(rng.choice(sorted(arrays)))
            value = arrays.pop(name)
            if rng.random() < 0.85:
                arrays[name] = odd(value, rng)
            np.savez(path, **arrays)
        else:
            with h5py.File(path, "r+") as file:
                _restructure_hdf5(file, rng)


def _restructure_hdf5(file: h5py.File, rng: np.random.Generator) -> None:
    names: list[str] = []
    file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    attributes = [("/", key) for key in file.attrs]
    attributes += [(name, key) for name in names for key in file[name].attrs]
    if attributes and rng.random() < 0.3:
        name, key = attributes[int(rng.integers(0, len(attributes)))]
        value = file[name].attrs.pop(key)
        if rng.random() < 0.8:
            file[name].attrs[key] = odd(value, rng).astype(np.float64, casting="unsafe") if rng.random() < 0.8 else "?"
        return
    name = names[int(rng.integers(0, len(names)))]
    dataset = file[name]
    value, kept = dataset[()], dict(dataset.attrs)
    del file[name]
    kind = rng.random()
    if kind < 0.8:
        text = isinstance(value, bytes)
        file[name] = odd(np.zeros(2) if text else value, rng)
        for key, content in kept.items():
            file[name].attrs[key] = content
    elif kind < 0.85:
        _bomb(file, name, rng)
    elif kind < 0.95:
        link = [h5py.SoftLink("/" + name), h5py.SoftLink("/nowhere"), h5py.ExternalLink("/etc/hostname", "/x")]
        file[name] = link[int(rng.integers(0, 3))]


def _bomb(file: h5py.File, name: str, rng: np.random.Generator) -> None:
    """Small chunks that gzip, once or twice, turns into 256 MiB and more."""
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((1, 8, 8))
    packer, piece = zlib.compressobj(), bytes(1 << 20)
    raw = b"".join([*(packer.compress(piece) for _ in range(256)), packer.flush()])
    plist.set_deflate(1)
    if rng.random() < 0.5:
        plist.set_filter(h5py.h5z.FILTER_DEFLATE, h5py.h5z.FLAG_OPTIONAL, (1,))
        raw = zlib.compress(raw)
    kind, space = h5py.h5t.py_create(np.dtype("u2")), h5py.h5s.create_simple((1, 8, 8))
    data = h5py.h5d.create(file.id, name.encode(), kind, space, plist)
    data.write_direct_chunk((0, 0, 0), raw)


def special(path: Path, rng: np.random.Generator) -> None:
    """Something at the path that is no file to be read."""
    path.unlink(missing_ok=True)
    kind = int(rng.integers(0, 4))
    if kind == 0:
        os.mkfifo(path)
    elif kind == 1:
        path.symlink_to("/dev/zero")
    elif kind == 2:
        path.symlink_to(path)
    else:
        path.touch()


def changed(target: Path, victim: str, contents: dict[str, bytes], other: bytes, rng: np.random.Generator) -> None:
    """Put a changed file in place: half of them by bytes, half (of archives) by their members, a few no files."""
    path = target / victim
    if rng.random() < 0.02:
        special(path, rng)
        return
    if path.suffix in (".toml", ".npy", ".json", ".safetensors") or rng.random() < 0.5:
        path.write_bytes(mutate(contents[victim], other, rng))
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            restructure(path, rng)
        except (ValueError, TypeError, OSError, OverflowError, KeyError):
            # What cannot even be written: fall back to bytes.
            path.write_bytes(mutate(contents[victim], other, rng))


def read(path: Path) -> Any:
    """Through the reader that a user would reach, with what follows; content that a checksum covers, as a value."""
    from ptycho_data.bundle_file import read_bundle
    from ptycho_data.checks.quality import check_scan, gather
    from ptycho_data.files import is_reconstruction, read_reconstruction, read_scan
    from ptycho_data.files.containers.npy import read_npy
    from ptycho_data.store import open_store, verify_store

    if path.name == "store":
        store = open_store(path)
        verify_store(path)
        made = store.groups(gridsize=2, n_groups=4)
        return [store.key, {name: plain(array) for name, array in store.arrays.items()}, plain(made.nn_indices)]
    if path.suffix == ".safetensors":
        model = read_bundle(path)
        weights = {name: plain(weight) for name, weight in sorted(model.weights.items())}
        return [repr(model.config), weights, plain(model.probe), model.mean_counts, model.provenance]
    if path.suffix == ".npy":
        read_npy(path)
    elif path.name == "object.npz":
        is_reconstruction(path)
        read_reconstruction(path)
    else:
        scan = read_scan(path)
        check_scan(scan, gather(scan))
    return None


def plain(array: np.ndarray) -> tuple[str, tuple[int, ...], bytes]:
    """Everything of an array, comparable."""
    return array.dtype.str, array.shape, np.ascontiguousarray(array).tobytes()


def forget_peak() -> None:
    """Begin a new peak of resident memory: that of the reader, without the making of its input (Linux)."""
    with contextlib.suppress(OSError):  # where it is forbidden, the peak is that of the whole worker
        Path("/proc/self/clear_refs").write_text("5")


def peak_kib() -> int:
    """Most resident memory since then, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def work(folder: Path, target: Path, first: int, last: int, seed: int) -> None:
    """Worker: read the cases and report each before and after, one JSON line each."""
    from ptycho_contracts.problems import PtychoError

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("error")
    paths = sorted(path for path in folder.iterdir() if path.name != "mapped.h5")
    contents = {
        str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }
    stored = [name for name in contents if name.startswith("store/")]
    sealed = {name: read(folder / name) for name in ("store", "model.safetensors")}
    for number in range(first, last):
        rng = np.random.default_rng([seed, number])
        name = paths[number % len(paths)].name
        other = contents[sorted(contents)[int(rng.integers(0, len(contents)))]]
        # A mapping is mutated itself, or its data are.
        victim = "mapped.h5" if name == "map.toml" and rng.random() < 0.5 else name
        victim = str(rng.choice(stored)) if name == "store" else victim
        for keep in ("diffraction.h5", "product.h5", "mapped.h5", *(stored if name == "store" else [name])):
            (target / keep).parent.mkdir(parents=True, exist_ok=True)
            (target / keep).unlink(missing_ok=True)
            (target / keep).write_bytes(contents[keep])
        changed(target, victim, contents, other, rng)
        print(json.dumps({"start": number}), flush=True)
        result, detail = "read", ""
        forget_peak()
        try:
            content = read(target / name)
            if name in sealed and content != sealed[name]:
                result, detail = "wrong", f"{name}: opened with another content than was written"
        except PtychoError as error:
            result, detail = "refused", error.codes[0]
        except BaseException:
            result, detail = "wrong", f"{name}: {traceback.format_exc()[-1500:]}"
        peak = peak_kib()
        print(json.dumps({"end": number, "result": result, "detail": detail, "peak_kib": peak}), flush=True)


class Tally:
    """Counts of results, and the cases that went wrong."""

    def __init__(self) -> None:
        self.results = {"read": 0, "refused": 0, "wrong": 0, "crash": 0, "hang": 0}
        self.codes: dict[str, int] = {}
        self.failures: list[dict[str, object]] = []
        self.peak_kib = 0

    def add(self, number: int, result: str, detail: str) -> None:
        self.results[result] += 1
        if result == "refused":
            self.codes[detail] = self.codes.get(detail, 0) + 1
        elif result != "read":
            self.failures.append({"case": number, "result": result, "detail": detail})


def _available(pipe: int) -> str:
    try:
        return os.read(pipe, 1 << 16).decode()
    except BlockingIOError:
        return ""


def supervise(folder: Path, first: int, last: int, seed: int, tally: Tally) -> int:
    """One worker from ``first``; returns the case to resume from."""
    with tempfile.TemporaryDirectory() as place, tempfile.TemporaryFile("w+") as errors:
        command = [sys.executable, __file__, "--work", str(folder), place, str(first), str(last), "--seed", str(seed)]
        worker = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, cwd=place)
        pipe = worker.stdout.fileno()  # type: ignore[union-attr]
        os.set_blocking(pipe, False)
        current, text, since = first, "", time.monotonic()
        while True:
            ended = worker.poll() is not None
            got = _available(pipe)
            *lines, text = (text + got).split("\n")
            for line in lines:
                entry = json.loads(line)
                if "end" in entry:
                    tally.add(entry["end"], entry["result"], entry["detail"])
                    tally.peak_kib = max(tally.peak_kib, entry["peak_kib"])
                    current = entry["end"] + 1
                since = time.monotonic()
            if ended and not got:
                break
            if time.monotonic() - since > CASE_SECONDS:
                worker.kill()
                worker.wait()
                tally.add(current, "hang", f"no answer in {CASE_SECONDS} s")
                return current + 1
            if not got:
                time.sleep(0.02)
        if current < last:
            errors.seek(0)
            tally.add(current, "crash", f"exit {worker.returncode}: {errors.read()[-600:]}")
            return current + 1
        strays = sorted(set(os.listdir(place)) - {path.name for path in folder.iterdir()})
        if strays:
            tally.add(current - 1, "wrong", f"files written beside the input: {strays[:5]}")
    return last


def main() -> None:
    """Run all cases and print the tally."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--chunk", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", nargs=4, metavar=("FOLDER", "TARGET", "FIRST", "LAST"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        folder, target, first, last = options.work
        work(Path(folder), Path(target), int(first), int(last), options.seed)
        return
    tally, began = Tally(), time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        names = [path.name for path in seeds(Path(place))]
        number = 0
        while number < options.cases:
            number = supervise(Path(place), number, min(number + options.chunk, options.cases), options.seed, tally)
    print(
        json.dumps(
            {
                "cases": options.cases,
                "seed": options.seed,
                "files": names,
                **tally.results,
                "peak_mib": round(tally.peak_kib / 1024),
                "seconds": round(time.monotonic() - began, 1),
                "codes": dict(sorted(tally.codes.items(), key=lambda item: -item[1])),
                "failures": tally.failures[:20],
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
