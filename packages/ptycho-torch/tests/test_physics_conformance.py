"""Patches and forward model against the NumPy reference in complex128 (specs/physics.md PHY-4 to PHY-10)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ptycho_contracts.testing import reference, strategies
from ptycho_data.canvas import scan_sites
from ptycho_data.canvas.geometry import canvas_geometry, group_canvas_shape
from ptycho_torch import physics
from ptycho_torch.physics import (
    Placement,
    add_patches,
    exit_waves,
    extract_patches,
    from_detector,
    group_placement,
    illumination,
    simulate,
    to_corner,
    to_detector,
    unit_probe,
)

EXACT = {"rtol": 1e-12, "atol": 1e-12}


def complex_array(rng, shape) -> np.ndarray:
    """Complex normal values."""
    return rng.normal(size=shape) + 1j * rng.normal(size=shape)


def centred(intensities: torch.Tensor) -> np.ndarray:
    """Patterns as they are stored: zero frequency at [N // 2, N // 2]."""
    return torch.fft.fftshift(intensities, dim=(-2, -1)).numpy()


@given(where=strategies.positions(), N=strategies.sizes, rng=strategies.generators)
def test_extraction(where, N, rng):
    """PHY-4, at any offset, fraction and parity."""
    geometry = canvas_geometry(where, N)
    canvas = complex_array(rng, geometry.shape)
    patches = extract_patches(torch.from_numpy(canvas), Placement.of(scan_sites(where, geometry, N)))
    np.testing.assert_allclose(
        patches.numpy(), reference.extract_patches(canvas, where, N, geometry.origin_yx_px), **EXACT
    )


@given(where=strategies.positions(), N=strategies.sizes, rng=strategies.generators)
def test_scatter_add(where, N, rng):
    """PHY-5; its sum is that of the patches (invariant 16)."""
    geometry = canvas_geometry(where, N)
    patches = complex_array(rng, (len(where), N, N))
    canvas = add_patches(torch.from_numpy(patches), Placement.of(scan_sites(where, geometry, N))).numpy()
    expected = reference.scatter_add(patches, where, geometry.shape, geometry.origin_yx_px)
    np.testing.assert_allclose(canvas, expected, **EXACT)
    assert canvas.sum() == pytest.approx(patches.sum(), rel=1e-9, abs=1e-9)


@given(rng=strategies.generators, n=st.integers(1, 5), count=st.integers(1, 6))
def test_windows_add_up_on_a_cpu_and_on_a_gpu(rng, n, count):
    """PHY-5: both ways to add, here on tensors of the CPU. Oracle: pixel by pixel, in NumPy."""
    shape = (n + int(rng.integers(4)), n + int(rng.integers(7)))
    corners = rng.integers(0, np.array(shape) - n + 1, (count, 2))
    windows = complex_array(rng, (count, n, n))
    expected = np.zeros(shape, complex)
    for window, (y, x) in zip(windows, corners, strict=True):
        for row, column in np.ndindex(n, n):
            expected[y + row, x + column] += window[row, column]
    for add in (physics._add_by_slices, physics._add_by_indices):
        canvas = add(torch.from_numpy(windows), torch.from_numpy(corners), shape)
        np.testing.assert_allclose(canvas.numpy(), expected, **EXACT)


@given(where=strategies.positions(), N=strategies.sizes, rng=strategies.generators)
def test_scatter_add_is_the_adjoint_of_extraction(where, N, rng):
    """PHY-5: ``<A x, y> = <x, A^H y>`` for complex x and y."""
    geometry = canvas_geometry(where, N)
    sites = Placement.of(scan_sites(where, geometry, N))
    canvas = complex_array(rng, geometry.shape)
    patches = complex_array(rng, (len(where), N, N))
    left = np.vdot(patches, extract_patches(torch.from_numpy(canvas), sites).numpy())
    right = np.vdot(add_patches(torch.from_numpy(patches), sites).numpy(), canvas)
    assert left == pytest.approx(right, rel=1e-10, abs=1e-10)


@given(where=strategies.positions(), N=strategies.sizes, rng=strategies.generators)
def test_transposed_object_and_positions_give_transposed_patches(where, N, rng):
    """Invariant 11."""
    geometry = canvas_geometry(where, N)
    canvas = torch.from_numpy(complex_array(rng, geometry.shape))
    patches = extract_patches(canvas, Placement.of(scan_sites(where, geometry, N)))
    turned = np.ascontiguousarray(where[:, ::-1])
    other = extract_patches(canvas.T.contiguous(), Placement.of(scan_sites(turned, canvas_geometry(turned, N), N)))
    np.testing.assert_allclose(other.numpy(), patches.transpose(1, 2).numpy(), **EXACT)


@given(where=strategies.positions(whole=True), N=strategies.sizes, data=st.data())
def test_single_bright_pixel_of_a_scan(where, N, data):
    """Invariant 12: object pixel (Y, X) is pixel [Y - r_y + N // 2, X - r_x + N // 2] of each patch that holds it."""
    geometry = canvas_geometry(where, N)
    row = data.draw(st.integers(0, geometry.shape[0] - 1))
    column = data.draw(st.integers(0, geometry.shape[1] - 1))
    canvas = torch.zeros(geometry.shape, dtype=torch.complex128)
    canvas[row, column] = 1
    patches = extract_patches(canvas, Placement.of(scan_sites(where, geometry, N))).numpy()
    expected = np.zeros_like(patches)
    for patch, (x, y) in enumerate(where):
        i = round(row + geometry.origin_yx_px[0] - y) + N // 2
        j = round(column + geometry.origin_yx_px[1] - x) + N // 2
        if 0 <= i < N and 0 <= j < N:
            expected[patch, i, j] = 1
    np.testing.assert_array_equal(patches, expected)


@pytest.mark.parametrize("gridsize", [1, 2])
@pytest.mark.parametrize("N", [8, 9])
def test_single_bright_pixel_of_groups(N, gridsize):
    """Invariants 12, 14: object pixel (Y, X) of one group, seen where its members' own positions say, nowhere else."""
    where = np.array([[0.0, 0], [4, 0], [0, 2], [4, 2], [2, 8], [6, 8], [-2, 4], [2, -4]])
    members = np.array([[0], [3], [5]]) if gridsize == 1 else np.array([[0, 1, 2, 3], [4, 5, 2, 3], [6, 0, 7, 1]])
    groups = strategies.grouped(where, members)
    shape = group_canvas_shape(groups.coords_relative, N, multiple=4)
    canvas = torch.zeros((3 * shape[0], shape[1]), dtype=torch.complex128)
    centre_x, centre_y = groups.coords_offsets[1, 0, :, 0]
    bright_y, bright_x = round(centre_y), round(centre_x) - 1
    offset = int(bright_y - centre_y), int(bright_x - centre_x)
    canvas[shape[0] + shape[0] // 2 + offset[0], shape[1] // 2 + offset[1]] = 1
    sites = group_placement(torch.from_numpy(groups.coords_relative), shape, N)
    patches = extract_patches(canvas, sites).numpy().reshape(3, gridsize**2, N, N)
    expected = np.zeros_like(patches)
    for channel, pattern in enumerate(members[1]):
        i, j = bright_y - int(where[pattern, 1]) + N // 2, bright_x - int(where[pattern, 0]) + N // 2
        expected[1, channel, i, j] = 1
    assert expected.sum() == gridsize**2
    np.testing.assert_array_equal(patches, expected)


@given(where=strategies.positions(min_count=4), N=strategies.sizes, rng=strategies.generators, data=st.data())
def test_group_canvases_against_the_reference(where, N, rng, data):
    """PHY-14: each group in the frame of its centre, whatever is above and below it."""
    groups = data.draw(strategies.groups(where))
    count, C = groups.nn_indices.shape
    height, width = shape = group_canvas_shape(groups.coords_relative, N)
    canvases = complex_array(rng, (count, height, width))
    sites = group_placement(torch.from_numpy(groups.coords_relative), shape, N)
    patches = extract_patches(torch.from_numpy(canvases.reshape(-1, width)), sites).numpy().reshape(count, C, N, N)
    for group in range(count):
        frame = -groups.coords_relative[group, 0].T.astype(np.float64)
        expected = reference.extract_patches(canvases[group], frame, N, [-(height // 2), -(width // 2)])
        # Positions reach the canvas in float32.
        np.testing.assert_allclose(patches[group], expected, rtol=0, atol=3e-5)


@pytest.mark.parametrize("batch", [2, 16, 70])
def test_groups_of_a_batch_never_meet(batch):
    """A merge of 64 and more patches once summed all groups into one canvas: each group stays on its canvas."""
    rng = np.random.default_rng(batch)
    where = rng.uniform(0, 30, (40, 2))
    groups = strategies.grouped(where, np.array([rng.choice(40, 4, replace=False) for _ in range(batch)]))
    shape = group_canvas_shape(groups.coords_relative, 8, multiple=8)
    sites = group_placement(torch.from_numpy(groups.coords_relative), shape, 8)
    patches = torch.zeros((batch * 4, 8, 8), dtype=torch.complex64)
    lit = batch // 2
    patches[4 * lit : 4 * lit + 4] = 1
    power = add_patches(patches, sites).abs().reshape(batch, *shape).sum((1, 2))
    assert power[lit] == pytest.approx(4 * 64, rel=1e-5)
    assert torch.count_nonzero(power) == 1


@given(N=strategies.sizes, modes=st.integers(1, 3), count=st.integers(1, 5), rng=strategies.generators, data=st.data())
def test_simulated_intensities(N, modes, count, rng, data):
    """PHY-8: unitary, modes added as intensities, odd and even sizes."""
    probe = data.draw(strategies.probes(N, modes=modes)).astype(np.complex128)
    patches = complex_array(rng, (count, N, N))
    simulated = centred(simulate(torch.from_numpy(patches), torch.from_numpy(probe)))
    expected = reference.simulate_counts(patches, probe)
    np.testing.assert_allclose(simulated, expected, rtol=1e-10, atol=1e-12 * expected.max())


@given(N=strategies.sizes, rng=strategies.generators, data=st.data())
def test_parseval(N, rng, data):
    """Invariant 5: the photons of a pattern are those of its exit wavefields; and back again."""
    probe = torch.from_numpy(data.draw(strategies.probes(N)).astype(np.complex128))
    patches = torch.from_numpy(complex_array(rng, (3, N, N)))
    wavefields = exit_waves(patches, probe)
    energy = wavefields.abs().square().sum((1, 2, 3))
    torch.testing.assert_close(simulate(patches, probe).sum((1, 2)), energy, rtol=1e-10, atol=0)
    torch.testing.assert_close(from_detector(to_detector(wavefields)), wavefields)


@given(count=st.sampled_from([1, 2, 5, 63, 64, 65, 130]), modes=st.integers(1, 3), rng=strategies.generators)
def test_a_pattern_depends_on_its_patch_alone(count, modes, rng):
    """Invariant 8: f(batch)[i] == f([x_i]) for any batch size and any number of modes."""
    N = 6
    where = rng.uniform(0, 20, (count, 2))
    geometry = canvas_geometry(where, N)
    sites = Placement.of(scan_sites(where, geometry, N))
    canvas = torch.from_numpy(complex_array(rng, geometry.shape))
    probe = torch.from_numpy(complex_array(rng, (modes, N, N)))
    together = simulate(extract_patches(canvas, sites), probe)
    for one in {0, count // 2, count - 1}:
        alone = simulate(extract_patches(canvas, sites[one : one + 1]), probe)
        torch.testing.assert_close(together[one], alone[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("N", [5, 6])
def test_gradients(N):
    """Invariant 53: gradients in canvas, patches and probe against finite differences, at complex zeros too."""
    rng = np.random.default_rng(N)
    where = rng.uniform(-3, 3, (3, 2))
    geometry = canvas_geometry(where, N)
    sites = Placement.of(scan_sites(where, geometry, N))
    canvas = torch.from_numpy(complex_array(rng, geometry.shape))
    canvas[::2] = 0
    patches = torch.from_numpy(complex_array(rng, (3, N, N)))
    probe = torch.from_numpy(complex_array(rng, (2, N, N)))
    probe[0, 1] = 0
    leaves = [leaf.requires_grad_() for leaf in (canvas, patches, probe)]
    assert torch.autograd.gradcheck(lambda c: extract_patches(c, sites), (leaves[0],))
    assert torch.autograd.gradcheck(lambda p: add_patches(p, sites), (leaves[1],))
    assert torch.autograd.gradcheck(lambda c, p: simulate(extract_patches(c, sites), p), (leaves[0], leaves[2]))


def test_dark_objects_and_probes_are_dark_and_differentiable():
    """Invariant 53."""
    patches = torch.zeros((2, 7, 7), dtype=torch.complex64, requires_grad=True)
    probe = torch.zeros((1, 7, 7), dtype=torch.complex64, requires_grad=True)
    simulated = simulate(patches, probe)
    simulated.sum().backward()
    assert torch.count_nonzero(simulated) == 0
    assert torch.count_nonzero(patches.grad) == 0
    assert torch.count_nonzero(probe.grad) == 0


@given(N=strategies.sizes, where=strategies.positions(), data=st.data())
def test_illumination(N, where, data):
    """The summed |P|^2 of all patterns and modes, as PHY-7 weighs with it."""
    probe = data.draw(strategies.probes(N))
    geometry = canvas_geometry(where, N)
    light = illumination(torch.from_numpy(probe), Placement.of(scan_sites(where, geometry, N))).numpy()
    power = np.broadcast_to((np.abs(probe.astype(np.complex128)) ** 2).sum(0), (len(where), N, N))
    expected = reference.scatter_add(power, where, geometry.shape, geometry.origin_yx_px).real
    np.testing.assert_allclose(light, expected, rtol=1e-4, atol=1e-5 * expected.max())


@given(N=strategies.sizes, rng=strategies.generators, scale=st.floats(1e-3, 1e4), modes=st.integers(1, 3))
def test_unit_probe(N, rng, scale, modes):
    """Invariant 2: one normalisation, whatever the scale of the given probe."""
    probe = torch.from_numpy(complex_array(rng, (modes, N, N)))
    unit = unit_probe(probe * scale)
    assert float(unit.abs().square().sum()) == pytest.approx(1, rel=1e-10)
    torch.testing.assert_close(unit, unit_probe(probe))


@given(N=strategies.sizes, rng=strategies.generators)
def test_zero_frequency_goes_to_the_corner(N, rng):
    """Stored patterns have it at [N // 2, N // 2], for odd sizes too."""
    patterns = rng.random((2, N, N))
    moved = to_corner(torch.from_numpy(patterns))
    np.testing.assert_array_equal(moved[:, 0, 0], patterns[:, N // 2, N // 2])
    np.testing.assert_array_equal(centred(moved), patterns)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_position_a_hair_below_a_whole_pixel(axis):
    """-1e-17 has the floor -1, and 60 - 1e-17 is 60: such a patch is read and scatter-added, not refused."""
    where = np.zeros((2, 2))
    where[0, axis], where[1, axis] = -60, -1e-17
    geometry = canvas_geometry(where, 8)
    sites = Placement.of(scan_sites(where, geometry, 8))
    rng = np.random.default_rng(0)
    canvas = complex_array(rng, geometry.shape)
    patches = extract_patches(torch.from_numpy(canvas), sites)
    # The hair is lost when the origin is taken off: the patch ends with the canvas.
    low = tuple(slice(-8, None) if index == 1 - axis else slice(0, 8) for index in range(2))
    np.testing.assert_allclose(patches[1].numpy(), canvas[low], atol=1e-12)
    assert add_patches(patches, sites).sum() == pytest.approx(complex(patches.sum()))
