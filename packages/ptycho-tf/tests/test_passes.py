"""Physics steps and passes beside NumPy in complex128, by each way that they can go (specs/training.md NET-5)."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ptycho_contracts.testing import reference
from ptycho_contracts.testing.conformance import close
from ptycho_data.canvas import CanvasGeometry, illumination, scan_sites
from ptycho_tf.framework import tf
from ptycho_tf.passes import StreamPasses, TensorPasses
from ptycho_tf.physics import Placement
from ptycho_tf.steps import back_project, back_project_one_by_one, goes_one_by_one


def scene(N: int, modes: int, patterns: int, *, seed: int = 0):
    """Object, moduli (zero frequency at [0, 0]), probe of unit energy, sites, and what these came from."""
    rng = np.random.default_rng((N, modes, patterns, seed))
    positions = rng.uniform(-9, 9, (patterns, 2))
    origin, shape = reference.canvas_geometry(positions, N)
    numbers = [rng.normal(size=(*size, 2)) @ [1, 1j] for size in (shape, (modes, N, N))]
    object_, probe = 1 + 0.3 * numbers[0], numbers[1] / np.linalg.norm(numbers[1])
    amplitude = rng.random((patterns, N, N)) / N
    sites = scan_sites(positions, CanvasGeometry(np.asarray(origin, float), shape), N)
    values = [
        tf.constant(array, dtype)
        for array, dtype in ((object_, tf.complex64), (amplitude, tf.float32), (probe, tf.complex64))
    ]
    return values, sites, (object_, amplitude, probe, positions, origin, shape)


def expected_projection(object_, amplitude, probe, positions, origin, shape, good):
    """``sum_m place(sum_k conj(P_k) F^-1[psi_k (sqrt(n) / sqrt(I + 1e-8) - 1)])``, the bracket 0 at bad pixels."""
    patches = reference.extract_patches(object_, positions, probe.shape[-1], origin)
    wavefields = np.fft.fft2(patches[:, None] * probe, norm="ortho")
    bracket = (amplitude / np.sqrt((np.abs(wavefields) ** 2).sum(1) + 1e-8) - 1) * good
    corrections = (np.fft.ifft2(wavefields * bracket[:, None], norm="ortho") * probe.conj()).sum(1)
    return reference.scatter_add(corrections, positions, shape, origin)


@given(st.sampled_from([8, 9, 16]), st.integers(1, 3), st.integers(1, 7), st.booleans())
def test_one_by_one_and_at_once(N, modes, patterns, some_are_bad):
    """Invariants 8 and 40, IMG-7: both ways give the NumPy reference's sum."""
    (object_, amplitude, probe), sites, arrays = scene(N, modes, patterns)
    good = np.ones((N, N))
    good[:: 2 + some_are_bad, 1] = 0
    expected = expected_projection(*arrays, good)
    for way in (back_project, back_project_one_by_one):
        result = tf.function(way, autograph=False)(
            object_, amplitude, probe, Placement.of(sites), mask=tf.constant(good, tf.float32)
        )
        close(result.numpy(), expected, 1e-5, way.__name__)


@pytest.mark.parametrize("N", [15, 128])
@pytest.mark.parametrize("ends_with_mean", [False, True])
def test_read_or_in_memory(N, ends_with_mean):
    """Invariant 40: a scan's passes read subset by subset and those of one graph take the same steps."""
    (object_, amplitude, probe), sites, _ = scene(N, 1, 6)
    assert goes_one_by_one(probe) == (N == 128)
    subsets = tf.constant([[0, 3], [5, 1], [2, 4]])

    dampings = tf.constant([0.5, 2.0]) * tf.reduce_max(tf.abs(probe)) ** 2
    start = object_, 0.1 * object_, dampings
    memory = TensorPasses(amplitude, probe, Placement.of(sites), subsets, None)
    graph = tf.function(lambda *given: memory(*given, ends_with_mean=ends_with_mean), autograph=False)
    of_subsets = [sites[rows] for rows in subsets.numpy()]
    read = StreamPasses(lambda turn: tf.gather(amplitude, subsets[turn]), probe, of_subsets, None)
    for mine, other in zip(read(*start, ends_with_mean=ends_with_mean), graph(*start), strict=True):
        close(mine.numpy(), other.numpy(), 1e-5, "passes")
    close(read.light.numpy(), memory.light.numpy(), 1e-6, "light")


@pytest.mark.parametrize("patterns", [1, 3, 256, 300])
def test_light_of_a_scan(patterns):
    """Some patterns at a time, the last of them fewer: the NumPy reference's sum of all."""
    (_, _, probe), sites, (_, _, modes, positions, origin, shape) = scene(9, 2, patterns)
    power = np.repeat((np.abs(modes) ** 2).sum(0)[None], patterns, axis=0)
    expected = reference.scatter_add(power, positions, shape, origin).real
    close(illumination(probe.numpy(), sites), expected, 1e-5, "light")


@pytest.mark.parametrize(
    ("given_by_user", "result"),
    [
        ({"OMP_NUM_THREADS": "1"}, "1 1"),
        ({"OMP_NUM_THREADS": "2", "TF_NUM_INTRAOP_THREADS": "3"}, "3 2"),
        ({}, "- -"),
        ({"OMP_NUM_THREADS": "4,2"}, "- -"),
    ],
)
def test_threads(given_by_user, result):
    """OMP_NUM_THREADS counts for TensorFlow, too, unless its own variables say otherwise."""
    script = (
        "import os, ptycho_tf.framework; "
        "print(*(os.environ.get(f'TF_NUM_{name}OP_THREADS', '-') for name in ('INTRA', 'INTER')))"
    )
    names = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
    environment = {name: value for name, value in os.environ.items() if name not in names} | given_by_user
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=300, check=True
    )
    assert done.stdout.strip() == result
