"""Networks: what they can represent, what they do untrained, and that groups never meet (specs/training.md NET)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ptycho_contracts.physics import PassSchedule
from ptycho_contracts.testing import reference, strategies
from ptycho_data.batches import mean_counts
from ptycho_data.canvas import scan_sites
from ptycho_data.canvas.geometry import CanvasGeometry, canvas_geometry, group_canvas_shape
from ptycho_data.grouping.groups import group
from ptycho_torch import network
from ptycho_torch.loader import GroupDataset
from ptycho_torch.losses import amplitude_loss
from ptycho_torch.network import CanvasNet, PatchNet, Unrolled, back_project, merge, upsample_nearest
from ptycho_torch.physics import Placement, extract_patches, group_placement, illumination, simulate, unit_probe

ARCHITECTURES = ("unrolled", "cnn")


def stirred(net: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """The net with all weights, the zero-initialised ones too, away from their start."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in net.parameters():
            weight.copy_(0.1 * torch.randn(weight.shape, generator=generator))
    return net.eval()


def complex_tensor(rng, shape, dtype=torch.complex64) -> torch.Tensor:
    """Complex normal values."""
    return torch.from_numpy(rng.normal(size=shape) + 1j * rng.normal(size=shape)).to(dtype)


@given(height=st.integers(8, 21), width=st.integers(8, 21))
def test_canvas_net_takes_any_canvas(height, width):
    """Odd sizes too; zero untrained, something trained."""
    image = torch.ones(2, 5, height, width)
    assert torch.count_nonzero(CanvasNet(5, 2)(image)) == 0
    out = stirred(CanvasNet(5, 2))(image)
    assert out.shape == (2, 2, height, width)
    assert torch.count_nonzero(out) > 0


@pytest.mark.parametrize("shape", [(575, 40), (577, 40), (40, 1090), (700, 601)])
def test_tiles_do_not_show(shape):
    """Invariant 40: around the size from which a canvas is corrected in tiles, the result is that of one piece."""
    net = stirred(CanvasNet(1, 2))
    image = torch.randn((1, 1, *shape), generator=torch.Generator().manual_seed(0))
    whole = net(image.requires_grad_()).detach()
    with torch.no_grad():
        torch.testing.assert_close(net(image), whole, rtol=1e-5, atol=1e-6)


def test_doubled_repeats_pixels():
    """Against NumPy's Kronecker product."""
    image = torch.arange(12.0).reshape(1, 2, 2, 3)
    np.testing.assert_array_equal(upsample_nearest(image), np.kron(image.numpy(), np.ones((1, 1, 2, 2))))


@given(where=strategies.positions(), N=strategies.sizes, rng=strategies.generators, data=st.data())
def test_back_projection_is_the_adjoint_of_the_forward_model(where, N, rng, data):
    """Written out in NumPy: ``sum conj(P_k) F^-1 [psi_k (sqrt(n) / sqrt(I) - 1)]`` scatter-added at each position."""
    probe = data.draw(strategies.probes(N, modes=2)).astype(np.complex128)
    geometry = canvas_geometry(where, N)
    canvas = complex_tensor(rng, geometry.shape, torch.complex128)
    amplitude = rng.random((len(where), N, N)) * 10
    result = back_project(
        canvas, torch.from_numpy(amplitude), torch.from_numpy(probe), Placement.of(scan_sites(where, geometry, N))
    )
    patches = reference.extract_patches(canvas.numpy(), where, N, geometry.origin_yx_px)
    wavefields = np.fft.fft2(probe * patches[:, None], norm="ortho")
    simulated = np.sqrt((np.abs(wavefields) ** 2).sum(1, keepdims=True) + 1e-8)
    corrected = wavefields * (amplitude[:, None] / simulated - 1)
    back = (probe.conj() * np.fft.ifft2(corrected, norm="ortho")).sum(1)
    expected = reference.scatter_add(back, where, geometry.shape, geometry.origin_yx_px)
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())


@given(where=strategies.positions(min_count=2), N=strategies.sizes, rng=strategies.generators, data=st.data())
def test_merge(where, N, rng, data):
    """PHY-7 against the NumPy reference, and invariant 17: constant patches merge to it; dark pixels are 1."""
    probe = unit_probe(torch.from_numpy(data.draw(strategies.probes(N)).astype(np.complex128)))
    probe[:, 0] = 0
    geometry = canvas_geometry(where, N)
    sites = Placement.of(scan_sites(where, geometry, N))
    patches = complex_tensor(rng, (len(where), N, N), torch.complex128)
    power = (probe.abs() ** 2).sum(0).numpy()
    expected, weight = reference.merge_patches(patches, power, where, geometry.shape, geometry.origin_yx_px)
    lit = weight > 0
    merged = merge(patches, probe, sites).numpy()
    np.testing.assert_allclose(merged[lit], expected[lit], rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(merged[~lit], 1)
    constant = merge(torch.full_like(patches, 0.3 - 0.4j), probe, sites).numpy()
    np.testing.assert_allclose(constant[lit], 0.3 - 0.4j, rtol=1e-12)


@given(amplitude=st.floats(0, 2), phase=st.floats(-math.pi, math.pi), side=st.sampled_from([16, 17, 24]))
def test_cnn_reaches_any_amplitude_and_phase(amplitude, phase, side):
    """Invariant 48: all of [0, 2], and the whole unit circle, on every pixel of the patch."""
    net = PatchNet(channels=1, width=2)
    with torch.no_grad():
        for weight in net.parameters():
            weight.zero_()
        fraction = min(max(amplitude / 2, 1e-40), 1 - 1e-8)
        net.amplitude.border.bias.fill_(math.log(fraction) - math.log1p(-fraction))
        net.phase.border.bias.fill_(math.atanh(phase / (1.1 * math.pi)))
    where = np.zeros((1, 2))
    sites = Placement.of(scan_sites(where, canvas_geometry(where, side), side))
    probe = unit_probe(torch.ones(1, side, side, dtype=torch.complex64))
    (result,) = net(torch.zeros(1, side, side), probe, sites)
    requested = amplitude * np.exp(1j * phase)
    np.testing.assert_allclose(result[:side, :side].detach().numpy(), requested, atol=2e-6)


def test_cnn_centre_and_border_have_heads_of_their_own():
    """The fine head fills the central half, the coarse head everything."""
    net = PatchNet(channels=1, width=2)
    with torch.no_grad():
        for weight in net.parameters():
            weight.zero_()
        net.amplitude.centre.bias.fill_(1)
    where = np.zeros((1, 2))
    sites = Placement.of(scan_sites(where, canvas_geometry(where, 16), 16))
    (result,) = net(torch.zeros(1, 16, 16), torch.ones(1, 16, 16, dtype=torch.complex64), sites)
    fine = np.abs(result[:16, :16].detach().numpy() - 1) > 0.1
    expected = np.zeros((16, 16), bool)
    expected[4:12, 4:12] = True
    np.testing.assert_array_equal(fine, expected)


@pytest.fixture(scope="module")
def problem(tiny_scan):
    """(moduli, probe, placement, canvas shape) of 20 groups of 4: 80 patches."""
    groups = group(tiny_scan.positions_px, gridsize=2, n_groups=20, seed=3)
    batch = GroupDataset(tiny_scan, groups, mean_counts=mean_counts(tiny_scan))[np.arange(len(groups))]
    shape = group_canvas_shape(groups.coords_relative, 16, multiple=8)
    measured = torch.fft.ifftshift(batch["counts"], dim=(-2, -1)) / batch["mean_counts"][:, None, None, None]
    probe = unit_probe(torch.from_numpy(tiny_scan.probe))
    return measured.reshape(-1, 16, 16).sqrt(), probe, batch["coords_relative"], shape


def networks() -> dict[str, torch.nn.Module]:
    """Both architectures with weights that matter."""
    return {
        "unrolled": stirred(Unrolled(iterations=2, passes=1, width=4)),
        "cnn": stirred(PatchNet(channels=4, width=2)),
    }


def run(net, moduli, probe, relative, shape, *, mask=None, subsets=None):
    """Estimates of stacked groups, (groups, H, W) each."""
    count = len(relative)
    every = torch.arange(count) * 4
    subsets = [every + channel for channel in range(4)] if subsets is None else subsets
    with torch.no_grad():
        result = net(moduli, probe, group_placement(relative, shape, 16), subsets=subsets, canvases=count, mask=mask)
    return [estimate.reshape(count, *shape) for estimate in result]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_group_is_the_same_in_any_batch(name, problem):
    """Invariant 8: f(batch)[i] == f([x_i]) with 80 patches in the batch."""
    moduli, probe, relative, shape = problem
    net = networks()[name]
    together = run(net, moduli, probe, relative, shape)
    for one in (0, 7, 19):
        alone = run(net, moduli[4 * one : 4 * one + 4], probe, relative[one : one + 1], shape)
        for many, single in zip(together, alone, strict=True):
            torch.testing.assert_close(many[one], single[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_masked_detector_pixels_do_not_matter(name, problem):
    """PHY-9: a bad pixel's value changes no bit."""
    moduli, probe, relative, shape = problem
    mask = torch.ones(16, 16)
    mask[3, 5] = mask[0, 0] = 0
    wild = moduli.clone()
    wild[:, 3, 5] = 50
    wild[:, 0, 0] = 0
    net = networks()[name]
    for kept, altered in zip(
        run(net, moduli, probe, relative, shape, mask=mask),
        run(net, wild, probe, relative, shape, mask=mask),
        strict=True,
    ):
        assert torch.equal(kept, altered)
    assert not torch.allclose(run(net, moduli, probe, relative, shape)[-1], run(net, wild, probe, relative, shape)[-1])


def test_untrained_passes_explain_more_than_empty_space(problem):
    """The physics of ``unrolled`` works before any training, and each iteration improves on the one before."""
    moduli, probe, relative, shape = problem
    net = Unrolled(iterations=3, passes=2, width=2)
    sites = group_placement(relative, shape, 16)

    def loss(canvas):
        return float(amplitude_loss(simulate(extract_patches(canvas, sites), probe), moduli.square(), eps=1e-8))

    estimates = [estimate.reshape(-1, shape[1]) for estimate in run(net, moduli, probe, relative, shape)]
    losses = [loss(torch.ones_like(estimates[0])), *map(loss, estimates)]
    assert losses[1] < 0.5 * losses[0]
    assert losses == sorted(losses, reverse=True)


def test_a_pass_is_ordered_steps_with_momentum(problem):
    """NET-5, written out for one subset; with several each sees what the one before has found."""
    moduli, probe, relative, shape = problem
    net = Unrolled(iterations=1, passes=1, width=2)
    relative, moduli = relative[:1], moduli[:4]
    sites = group_placement(relative, shape, 16)
    (plain,) = run(net, moduli, probe, relative, shape, subsets=[torch.arange(4)])
    light = illumination(probe, sites)
    brightest = (probe.abs() ** 2).sum(0).max()
    uniform = torch.ones(sites.shape, dtype=torch.complex64)
    step = back_project(uniform, moduli, probe, sites) / (light + 0.5 * brightest)
    torch.testing.assert_close(plain[0], uniform + 1.85 * step)
    (twice,) = run(Unrolled(iterations=1, passes=2, width=2), moduli, probe, relative, shape, subsets=[torch.arange(4)])
    first = uniform + 1.85 * step
    second = back_project(first, moduli, probe, sites) / (light + 10 * brightest)
    torch.testing.assert_close(twice[0], first + second + 0.85 * (0.85 * step + second))
    forwards, backwards = (
        run(net, moduli, probe, relative, shape, subsets=[torch.tensor([i]) for i in order])[0]
        for order in ((0, 1, 2, 3), (3, 2, 1, 0))
    )
    assert not torch.allclose(forwards, plain)
    assert not torch.allclose(forwards, backwards)


def test_the_last_pass_ends_with_the_mean_of_its_steps(problem):
    """NET-5, written out for two subsets."""
    moduli, probe, relative, shape = problem
    relative, moduli = relative[:1], moduli[:4]
    sites = group_placement(relative, shape, 16)
    subsets = [torch.tensor([0, 1]), torch.tensor([2, 3])]
    damping = 0.5 * (probe.abs() ** 2).sum(0).max()
    steps, visited = [], [torch.ones(sites.shape, dtype=torch.complex64)]
    velocity = torch.zeros_like(visited[0])
    for subset in subsets:
        push = back_project(visited[-1], moduli[subset], probe, sites[subset])
        steps.append(push / (illumination(probe, sites[subset]) + damping))
        velocity = 0.85 * velocity + steps[-1]
        visited.append(visited[-1] + steps[-1] + 0.85 * velocity)
    (result,) = run(Unrolled(iterations=1, passes=1, width=2), moduli, probe, relative, shape, subsets=subsets)
    torch.testing.assert_close(result[0], (visited[1] + visited[2]) / 2)


@pytest.mark.parametrize("patterns", [7, 8, 9, 40])
def test_wavefields_in_parts_equal_wavefields_at_once(problem, monkeypatch, patterns):
    """Invariant 40: the same on both sides of the size from which wavefields are taken in parts of 8 patterns."""
    moduli, probe, relative, shape = problem
    sites = group_placement(relative, shape, 16)
    chosen = torch.arange(patterns)
    canvas = torch.polar(torch.rand(sites.shape) + 0.5, torch.rand(sites.shape))
    expected = back_project(canvas, moduli[chosen], probe, sites[chosen])
    monkeypatch.setattr(network, "_WAVEFIELDS_AT_ONCE", 8 * probe.numel())
    torch.testing.assert_close(back_project(canvas, moduli[chosen], probe, sites[chosen]), expected)


def test_a_group_canvas_is_a_scan_canvas(tiny_scan):
    """The same weights, the same patterns: one group's canvas and a canvas of that frame give the same image."""
    where = tiny_scan.positions_px[:9]
    groups = strategies.grouped(where, np.arange(9)[None])
    height, width = shape = group_canvas_shape(groups.coords_relative, 16)
    centre = where.mean(0)[::-1]
    frame = CanvasGeometry(origin_yx_px=centre - (height // 2, width // 2), shape=shape)
    probe = unit_probe(torch.from_numpy(tiny_scan.probe))
    moduli = torch.fft.ifftshift(torch.from_numpy(tiny_scan.counts(slice(0, 9))), dim=(-2, -1)).sqrt() * 1e-2
    net = stirred(Unrolled(iterations=2, passes=1, width=4))
    subsets = [torch.tensor([0, 4, 8]), torch.tensor([1, 2, 3, 5, 6, 7])]
    with torch.no_grad():
        grouped = net(
            moduli, probe, group_placement(torch.from_numpy(groups.coords_relative), shape, 16), subsets=subsets
        )
        scanned = net(moduli, probe, Placement.of(scan_sites(where, frame, 16)), subsets=subsets)
    for one, other in zip(grouped, scanned, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("passes", "expected"), [(1, [0.5]), (3, [0.5, 5**0.5, 10.0]), (2, [0.5, 10.0])])
def test_damping_grows(passes, expected):
    """NET-5: from 0.5 to 10, each the same multiple of the one before."""
    assert PassSchedule(passes).dampings() == pytest.approx(expected)


@given(change=st.complex_numbers(max_magnitude=3))
def test_unrolled_reaches_any_value_at_illuminated_pixels(change):
    """Invariant 48: the last correction is free in the complex plane, weighted by the illumination."""
    where = np.array([[0.0, 0], [3, 1], [1, 4]])
    sites = Placement.of(scan_sites(where, canvas_geometry(where, 16), 16))
    rng = np.random.default_rng(0)
    probe = unit_probe(complex_tensor(rng, (1, 16, 16)))
    net = Unrolled(iterations=1, passes=1, width=2)
    moduli = torch.from_numpy(rng.random((3, 16, 16))).float() / 16
    with torch.no_grad():
        (start,) = net(moduli, probe, sites, subsets=[torch.arange(3)])
        net.nets[0].out_conv.bias.copy_(torch.tensor([change.real] * 4 + [change.imag] * 4))
        (end,) = net(moduli, probe, sites, subsets=[torch.arange(3)])
    light = illumination(probe, sites)
    seen = light / (light + 0.3 * (probe.abs() ** 2).sum(0).max())
    assert float(seen.max()) > 0.5
    torch.testing.assert_close(end - start, change * seen.to(torch.complex64), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("N", [15, 17])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_odd_patterns(name, N):
    """Odd N, odd canvas."""
    rng = np.random.default_rng(N)
    where = rng.uniform(0, 6, (4, 2))
    geometry = canvas_geometry(where, N)
    moduli = torch.from_numpy(rng.random((4, N, N))).float() / N
    estimates = networks()[name](
        moduli,
        unit_probe(complex_tensor(rng, (2, N, N))),
        Placement.of(scan_sites(where, geometry, N)),
        subsets=[torch.arange(4)],
    )
    assert all(estimate.shape == geometry.shape for estimate in estimates)
    assert all(torch.isfinite(torch.view_as_real(estimate)).all() for estimate in estimates)
