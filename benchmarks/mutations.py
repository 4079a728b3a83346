"""Flip a sign, swap an axis, drop a scale: does some test notice (invariant 50)?

Each mutation is made in a temporary copy of the package, which the tests then import in place of the real one.
Prints JSON; exits 1 when a mutation survives. Not part of CI: it takes a few minutes.

    python benchmarks/mutations.py [words of the mutations to run]

Those of TensorFlow run in the Python that ``PTYCHO_TF_PYTHON`` names.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Mutation:
    """A defect: a text of a module, its replacement, and the tests that should notice."""

    module: str
    what: str
    old: str
    new: str
    tests: tuple[str, ...]


PHYSICS, LOSSES = "ptycho_torch/physics.py", "ptycho_torch/losses.py"
TF_PHYSICS, TF_JOINT = "ptycho_tf/physics.py", "ptycho_tf/joint.py"
TF_LOSSES, TF_OPTIMISER = "ptycho_tf/losses.py", "ptycho_tf/optimiser.py"
RECORDS, ARRAYS = "ptycho_contracts/records.py", "ptycho_contracts/arrays.py"
GROUPS, NEIGHBOURS = "ptycho_data/grouping/groups.py", "ptycho_data/grouping/neighbours.py"
STORES, COMMITS, OWNERSHIP = (f"ptycho_data/store/{name}.py" for name in ("stores", "commits", "ownership"))
GATHERING = "ptycho_data/batches/gathering.py"
STITCH, SCATTER, SITES = (f"ptycho_data/canvas/{name}.py" for name in ("stitching", "scatter_add", "sites"))
PHYSICS_TESTS = ("packages/ptycho-torch/tests/test_physics_conformance.py",)
LOSS_TESTS = ("packages/ptycho-torch/tests/test_losses_conformance.py",)
STITCH_TESTS = ("packages/ptycho-data/tests/test_stitch.py",)
RECORD_TESTS = ("packages/ptycho-contracts/tests/test_records.py", "packages/ptycho-contracts/tests/test_arrays.py")
GROUP_TESTS = ("packages/ptycho-data/tests/test_grouping.py",)
STORE_TESTS = ("packages/ptycho-data/tests/test_store.py",)
TF_TESTS = ("packages/ptycho-tf/tests/test_conformance.py",)
TF_OPTIMISER_TESTS = ("packages/ptycho-tf/tests/test_optimiser.py",)
TF_JOINT_TESTS = ("tests/tf/test_joint_state_tf.py",)

MUTATIONS = (
    Mutation(SITES, "the edge of the canvas", "corners - over, fractions + over", "corners, fractions", PHYSICS_TESTS),
    *(
        Mutation(PHYSICS, what, old, new, PHYSICS_TESTS)
        for what, old, new in (
            ("sign of the relative coordinates", "(centre - relative_yx)", "(centre + relative_yx)"),
            ("axes of the relative coordinates", ".flip(1).transpose(1, 2)", ".transpose(1, 2)"),
            ("centre of a patch", ".reshape(-1, 2) - N // 2", ".reshape(-1, 2) - (N + 1) // 2"),
            ("groups on one canvas", "repeat_interleave(channels) * height", "repeat_interleave(channels) * 0"),
            ("groups and channels", "repeat_interleave(channels)", "repeat(channels)"),
            (
                "axes of the fractions",
                "fractions_yx[:, 0, None, None, None], fractions_yx[:, 1, None, None, None]",
                "fractions_yx[:, 1, None, None, None], fractions_yx[:, 0, None, None, None]",
            ),
            (
                "sign of a fraction",
                "real = torch.lerp(real[:, :-1], real[:, 1:], fy)",
                "real = torch.lerp(real[:, 1:], real[:, :-1], fy)",
            ),
            ("axes of the adjoint", "F.pad(real, (0, 0, 1, 0)), fx)", "F.pad(real, (0, 0, 1, 0)), fy)"),
            (
                "far side of the adjoint",
                "F.pad(real, (0, 0, 0, 1)), F.pad(real, (0, 0, 1, 0))",
                "F.pad(real, (0, 0, 1, 0)), F.pad(real, (0, 0, 0, 1))",
            ),
            ("norm of the transform", 'torch.fft.fft2(wavefields, norm="ortho")', "torch.fft.fft2(wavefields)"),
            ("norm of the inverse", 'torch.fft.ifft2(wavefields, norm="ortho")', "torch.fft.ifft2(wavefields)"),
            ("conjugated probe", "patches.unsqueeze(1) * probe", "patches.unsqueeze(1) * probe.conj()"),
            (
                "modes added as wavefields",
                "squared_modulus(detector_wavefields).sum(1)",
                "squared_modulus(detector_wavefields.sum(1))",
            ),
            ("imaginary part dropped", "field.real.square() + field.imag.square()", "field.real.square()"),
            (
                "energy of the first mode only",
                "squared_modulus(probe).sum().sqrt()",
                "squared_modulus(probe[0]).sum().sqrt()",
            ),
            ("mean over modes", "squared_modulus(probe).sum(0).expand", "squared_modulus(probe).mean(0).expand"),
            ("direction of the shift", "torch.fft.ifftshift(patterns", "torch.fft.fftshift(patterns"),
            (
                "gradient of reading",
                "return _add(grads[0], corners_yx, ctx.shape), None, None",
                "return -_add(grads[0], corners_yx, ctx.shape), None, None",
            ),
            (
                "gradient of adding",
                "return _read(grads[0].contiguous(), corners_yx, ctx.n), None, None",
                "return _read(grads[0].contiguous(), corners_yx, ctx.n).conj(), None, None",
            ),
        )
    ),
    *(
        Mutation(LOSSES, what, old, new, LOSS_TESTS)
        for what, old, new in (
            (
                "loss squared again",
                "_mean(difference.square(), measured, mask)",
                "_mean(difference.square().square(), measured, mask)",
            ),
            (
                "sign of eps",
                "(simulated + eps).sqrt() - (measured + eps).sqrt()",
                "(simulated + eps).sqrt() - measured.sqrt()",
            ),
            ("counts compared with amplitude", "(measured + eps).sqrt()", "(measured + eps)"),
            ("sign of the Poisson term", "excess - scale * logarithm", "excess + scale * logarithm"),
            ("weight of the Poisson term", "excess - scale * logarithm", "excess - measured * logarithm"),
            ("digits lost in the dark", "near = excess.abs() < 0.5 * scale", "near = excess.abs() < 2 * scale"),
            ("normalised by its own prediction", "values.sum() / measured.sum()", "values.mean() / measured.sum()"),
            ("mask forgotten in the sum", "values * mask, measured * mask", "values * mask, measured"),
            ("no guard against darkness", ".clamp_min(torch.finfo(measured.dtype).tiny)", ""),
        )
    ),
    *(
        Mutation(module, what, old, new, STITCH_TESTS)
        for module, what, old, new in (
            (
                STITCH,
                "other support",
                "self._numerator[seen] / self._denominator[seen]",
                "self._numerator[seen] / np.maximum(self._denominator[seen], 1)",
            ),
            (SCATTER, "numerator without its weight", "np.multiply(pairs, doubled,", "np.multiply(pairs, 1,"),
            (SCATTER, "axes of the fractions", "up, left, down, right =", "left, up, right, down ="),
            (
                SCATTER,
                "sign of the fractions",
                "1 - fractions[part], fractions[part]",
                "fractions[part], 1 - fractions[part]",
            ),
            (
                SCATTER,
                "fraction of the next column",
                "(padded, lines, left, right, width)",
                "(padded, lines, right, left, width)",
            ),
            (SCATTER, "weights overwritten", "left : left + width] += weights", "left : left + width] = weights"),
            (
                SCATTER,
                "scale of the weights dropped",
                "weights.astype(np.float64) * scale",
                "weights.astype(np.float64)",
            ),
            (
                SCATTER,
                "corners of the reads",
                "reads[number, down : down + N, right : right + N]",
                "reads[number, right : right + N, down : down + N]",
            ),
        )
    ),
    *(
        Mutation(module, what, old, new, RECORD_TESTS)
        for module, what, old, new in (
            (
                RECORDS,
                "coordinates about any centre",
                "problems += _centre_problems(record.coords_relative, where)",
                "pass",
            ),
            (
                RECORDS,
                "centre of one axis",
                "dtype=np.float64)).max(axis=(1, 2))",
                "dtype=np.float64)).min(axis=(1, 2))",
            ),
            (RECORDS, "centre within a tenth", "mean > 1e-4 * (1.0 + largest)", "mean > 1e-1 * (1.0 + largest)"),
            (RECORDS, "channels that drift apart", '("group", 1, 2, "channel")', '("group", 1, 2, "C")'),
            (RECORDS, "offsets of another number of groups", '("group", 1, 2, 1)', '("offset", 1, 2, 1)'),
            (
                RECORDS,
                "members below 0",
                '("group", "channel"), kinds="i", dtype="int64", minimum=0',
                '("group", "channel"), kinds="i", dtype="int64"',
            ),
            (
                RECORDS,
                "positions of another number",
                '("positions_px", ("pattern", 2), kinds="f", dtype="float64", unit="px"),\n    ArraySpec("scan_index"',
                '("positions_px", ("position", 2), kinds="f", dtype="float64", unit="px"),\n    ArraySpec("scan_index"',
            ),
            (RECORDS, "scan numbers of another number", '("scan_index", ("pattern",)', '("scan_index", ("index",)'),
            (ARRAYS, "NaN in complex arrays", 'array.dtype.kind in "fc" and', 'array.dtype.kind in "f" and'),
            (
                ARRAYS,
                "only the first block",
                "for start in range(0, len(array), step):",
                "for start in range(0, 1, step):",
            ),
        )
    ),
    *(
        Mutation(module, what, old, new, GROUP_TESTS)
        for module, what, old, new in (
            (GROUPS, "sign of the relative coordinates", "= centres - members", "= members - centres"),
            (
                GROUPS,
                "axes of the coordinates",
                "members = positions[:, axis][indices[rows]]",
                "members = positions[:, 1 - axis][indices[rows]]",
            ),
            (GROUPS, "centre at the seed", "members.sum(axis=1, keepdims=True) / C", "members[:, :1]"),
            (
                GROUPS,
                "coordinates rounded before the difference",
                "members = positions[:, axis]",
                "members = positions.astype(np.float32)[:, axis]",
            ),
            (GROUPS, "scans mixed", "usable[of_usable == scan]", "usable"),
            (GROUPS, "numbers within the pool", "indices[rows, 0] = pool.members[seeds]", "indices[rows, 0] = seeds"),
            (GROUPS, "held-out neighbours", "pool.members[near]", "near"),
            (GROUPS, "number of channels", "return channel_count(self.gridsize)", "return self.gridsize"),
            (NEIGHBOURS, "itself a neighbour", "neighbours[:, 1:], dtype", "neighbours[:, :-1], dtype"),
            (NEIGHBOURS, "least distance exclusive", "(distance >= low)", "(distance > low)"),
            (NEIGHBOURS, "largest distance exclusive", "(distance <= high)", "(distance < high)"),
            (
                NEIGHBOURS,
                "numbers in spatial order",
                "result[order[rows]] = order[_nearest(tree, shifted, rows, K)]",
                "result[order[rows]] = _nearest(tree, shifted, rows, K)",
            ),
        )
    ),
    *(
        Mutation(module, what, old, new, STORE_TESTS)
        for module, what, old, new in (
            (
                STORES,
                "scan numbers forgotten in groups",
                "scan_index=self.scan_index, allowed=allowed",
                "allowed=allowed",
            ),
            (
                STORES,
                "scan numbers forgotten",
                'return self.arrays["scan_index"]',
                "return np.zeros(len(self), np.int64)",
            ),
            (STORES, "key of how many patterns are allowed", "digest(np.asarray(allowed).tolist())", "len(allowed)"),
            (STORES, "key without the seed", '            "seed": seed,\n', ""),
            (STORES, "counts of amplitudes", 'np.square(chosen) if self.unit == "amplitude" else chosen', "chosen"),
            (
                STORES,
                "squared in its own dtype",
                "np.array(self.measurements[index], dtype=np.float32)",
                "np.array(self.measurements[index])",
            ),
            (
                COMMITS,
                "content reused by its layout",
                'if checksum_of(arrays[name], advance) != entries[name]["checksum"]:',
                "if False:",
            ),
            (COMMITS, "facts not compared", 'manifest["facts"] != facts or ', ""),
            (OWNERSHIP, "files of the user replaced", "foreign.append(entry.name)", "own.append(entry)"),
            (COMMITS, "rows lost", "if self.rows != self.shape[0] or written != size:", "if False:"),
            (
                GATHERING,
                "mean counts of held-out patterns",
                "np.arange(len(source)) if allowed is None else",
                "np.arange(len(source)) if True else",
            ),
            (
                GATHERING,
                "mean counts with bad pixels",
                "good = None if source.bad_pixels is None else",
                "good = None if True else",
            ),
            (
                GATHERING,
                "mean counts of one scan for all",
                "mean_counts[int(scan)] for scan in scans]",
                "mean_counts[int(scans[0])] for _ in scans]",
            ),
            (GATHERING, "channels turned", "source.counts(indices.ravel())", "source.counts(indices[:, ::-1].ravel())"),
        )
    ),
    *(
        Mutation(module, what, old, new, TF_TESTS)
        for module, what, old, new in (
            (TF_PHYSICS, "sign of the relative coordinates", "centre - relative_yx", "centre + relative_yx"),
            (TF_PHYSICS, "axes of the relative coordinates", "coords_relative[:, 0, ::-1]", "coords_relative[:, 0]"),
            (
                TF_PHYSICS,
                "groups and channels",
                "tf.repeat(tf.range(tf.cast(batch, tf.int64)), channels)",
                "tf.tile(tf.range(tf.cast(batch, tf.int64)), [channels])",
            ),
            (
                TF_PHYSICS,
                "axes of the fractions",
                "return fractions[:, 0], fractions[:, 1]",
                "return fractions[:, 1], fractions[:, 0]",
            ),
            (
                TF_PHYSICS,
                "far side of the adjoint",
                "tf.pad(right, ((0, 0), (0, 0), (1, 0), (0, 0)))",
                "tf.pad(right, ((0, 0), (0, 0), (0, 1), (0, 0)))",
            ),
            (TF_PHYSICS, "norm of the transform", "times(probe, 1 / int(probe.shape[-1]))", "probe"),
            (
                TF_PHYSICS,
                "modes added as wavefields",
                "tf.reduce_sum(squared_modulus(detector_wavefields), axis=1)",
                "squared_modulus(tf.reduce_sum(detector_wavefields, axis=1))",
            ),
            (
                TF_PHYSICS,
                "imaginary part dropped",
                "tf.square(tf.math.real(field)) + tf.square(tf.math.imag(field))",
                "tf.square(tf.math.real(field))",
            ),
            (TF_PHYSICS, "direction of the shift", "tf.signal.ifftshift(patterns", "tf.signal.fftshift(patterns"),
            (
                TF_PHYSICS,
                "gradient of reading",
                "return patches, lambda upstream: add_patches(upstream, placement)",
                "return patches, lambda upstream: -add_patches(upstream, placement)",
            ),
            (
                TF_PHYSICS,
                "rows of a gather",
                "_pixel_indices(corners_yx, n, _size(canvas, 1))",
                "_pixel_indices(corners_yx, n, _size(canvas, 0))",
            ),
            (TF_PHYSICS, "pixels added transposed", "pixel[:, None] * width + pixel", "pixel * width + pixel[:, None]"),
            (
                TF_LOSSES,
                "loss squared again",
                "_mean(tf.square(difference), measured, mask)",
                "_mean(tf.square(tf.square(difference)), measured, mask)",
            ),
            (TF_LOSSES, "weight of the Poisson term", "excess - scale * tf.where", "excess - measured * tf.where"),
            (TF_LOSSES, "mask forgotten in the sum", "values * mask, measured * mask", "values * mask, measured"),
        )
    ),
    Mutation(
        TF_OPTIMISER,
        "epsilon before the correction",
        "epsilon * tf.sqrt(1 - tf.cast(self.beta_2, variable.dtype) ** done)",
        "epsilon",
        TF_OPTIMISER_TESTS,
    ),
    *(
        Mutation(TF_JOINT, what, old, new, TF_JOINT_TESTS)
        for what, old, new in (
            (
                "second moment without its correction",
                "return [first, second, self._rate",
                "return [first, 0.0, self._rate",
            ),
            (
                "moments swapped",
                "m=self._moments[0].handle,\n            v=self._moments[1].handle",
                "m=self._moments[1].handle,\n            v=self._moments[0].handle",
            ),
            ("steps forgotten on resuming", "self._steps = steps", "self._steps = 0"),
        )
    ),
)


def main(words: list[str]) -> int:
    """Try the mutations whose description has one of the words; all if no words are given."""
    chosen = [row for row in MUTATIONS if not words or any(word in f"{row.module} {row.what}" for word in words)]
    for module, tests in {(row.module, row.tests) for row in chosen}:
        failing = noticing(Mutation(module, "none", "", "", tests))
        if failing:
            raise SystemExit(f"{failing} fails without any mutation")
    results = []
    for row in chosen:
        began = time.perf_counter()
        noticed_by = noticing(row)
        results.append(
            {
                "module": row.module,
                "mutation": row.what,
                "noticed_by": noticed_by,
                "seconds": round(time.perf_counter() - began, 1),
            }
        )
        print(f"{'noticed ' if noticed_by else 'SURVIVED'} {row.module}: {row.what}", file=sys.stderr)
    survived = [row for row in results if row["noticed_by"] is None]
    print(json.dumps({"mutations": len(results), "survived": len(survived), "results": results}, indent=2))
    return 1 if survived else 0


def python_for(package: str) -> str:
    """The Python in which a package's tests run: TensorFlow has its own."""
    if package != "ptycho_tf":
        return sys.executable
    named = os.environ.get("PTYCHO_TF_PYTHON", "")
    if not named:
        raise SystemExit("set PTYCHO_TF_PYTHON to a Python with TensorFlow, or name other mutations: ptycho_data ...")
    return named


def noticing(row: Mutation) -> str | None:
    """The first test that fails with the mutation, or None."""
    package = row.module.split("/")[0]
    with tempfile.TemporaryDirectory() as folder:
        source = ROOT / "packages" / package.replace("_", "-") / "src" / package
        shutil.copytree(source, Path(folder) / package, ignore=shutil.ignore_patterns("__pycache__"))
        target = Path(folder) / row.module
        text = target.read_text(encoding="utf-8")
        if row.old not in text:
            raise SystemExit(f"{row.module} no longer has {row.old!r}: bring this script up to date")
        target.write_text(text.replace(row.old, row.new) if row.old else text, encoding="utf-8")
        path = os.pathsep.join(filter(None, (folder, os.environ.get("PYTHONPATH"))))
        env = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
        words = ["-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--tb=no", *row.tests]
        done = subprocess.run(
            [python_for(package), *words], cwd=ROOT, env=env, capture_output=True, text=True, check=False
        )
    failed = [line.split(" - ")[0] for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    if done.returncode == 0:
        return None
    if not failed:
        raise SystemExit(f"the tests did not run: {done.stdout}{done.stderr}")
    return failed[0].split("::", 1)[-1]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
