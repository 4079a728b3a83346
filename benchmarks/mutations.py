"""Flip a sign, swap an axis, drop a scale: does some test notice (invariant 50)?

Each mutation is made in a temporary copy of the package, which the tests then import in place of the real one.
Prints JSON; exits 1 when a mutation survives. Not part of CI: it takes a few minutes.

    python benchmarks/mutations.py [words of the mutations to run]
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
STITCH, SCATTER, SITES = (f"ptycho_data/canvas/{name}.py" for name in ("stitching", "scatter_add", "sites"))
PHYSICS_TESTS = ("packages/ptycho-torch/tests/test_physics_conformance.py",)
LOSS_TESTS = ("packages/ptycho-torch/tests/test_losses_conformance.py",)
STITCH_TESTS = ("packages/ptycho-data/tests/test_stitch.py",)

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


def noticing(row: Mutation) -> str | None:
    """The first test that fails with the mutation, or None."""
    package, _ = row.module.split("/")
    with tempfile.TemporaryDirectory() as folder:
        source = ROOT / "packages" / package.replace("_", "-") / "src" / package
        shutil.copytree(source, Path(folder) / package, ignore=shutil.ignore_patterns("__pycache__"))
        target = Path(folder) / row.module
        text = target.read_text(encoding="utf-8")
        if row.old not in text:
            raise SystemExit(f"{row.module} no longer has {row.old!r}: bring this script up to date")
        target.write_text(text.replace(row.old, row.new) if row.old else text, encoding="utf-8")
        env = {**os.environ, "PYTHONPATH": folder, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
        words = ["-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--tb=no", *row.tests]
        done = subprocess.run([sys.executable, *words], cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    failed = [line.split(" - ")[0] for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    if done.returncode == 0:
        return None
    if not failed:
        raise SystemExit(f"the tests did not run: {done.stdout}{done.stderr}")
    return failed[0].split("::", 1)[-1]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
