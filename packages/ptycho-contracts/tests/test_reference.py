"""The NumPy reference of specs/physics.md, against sums written out pixel by pixel and closed forms."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from ptycho_contracts.physics import EPS_COUNTS
from ptycho_contracts.problems import ContractError
from ptycho_contracts.testing import reference as ref
from ptycho_contracts.testing import strategies as pst


def complex_normal(rng, *shape):
    return rng.normal(size=shape) + 1j * rng.normal(size=shape)


class TestCanvas:
    def test_by_hand(self):
        """PHY-3: whole origin, least size with the row and column that bilinear reading touches."""
        origin, shape = ref.canvas_geometry([[10.25, -3.5], [12.0, 7.75]], 4)
        assert origin.tolist() == [-6.0, 8.0]
        assert shape == (7 - -4 + 4 + 1, 12 - 10 + 4 + 1)
        assert ref.canvas_geometry([[0.0, 0.0]], 5)[0].tolist() == [-2.0, -2.0]

    @given(where=pst.positions(whole=False), N=pst.sizes)
    def test_it_holds_every_pixel_and_no_other_border(self, where, N):
        """Invariants 16, 19: minimal; a pixel read with any fraction is on it, and each border is reached."""
        origin, shape = ref.canvas_geometry(where, N)
        first = np.floor(where[:, ::-1]) - N // 2 - origin
        last = first + N
        assert first.min(axis=0).tolist() == [0, 0]
        assert last.max(axis=0).tolist() == [shape[0] - 1, shape[1] - 1]
        ref.extract_patches(np.ones(shape), where, N, origin)

    @given(where=pst.positions(offset_px=0), N=pst.sizes, shift=st.tuples(*[st.integers(-(10**6), 10**6)] * 2))
    def test_translation_moves_the_origin_alone(self, where, N, shift):
        """Invariants 15, 19: independent of absolute offsets."""
        origin, shape = ref.canvas_geometry(where, N)
        moved, same = ref.canvas_geometry(where + shift, N)
        assert same == shape
        assert (moved - origin).tolist() == [shift[1], shift[0]]

    @given(pst.positions(min_count=2), pst.sizes, st.randoms(use_true_random=False))
    def test_order_does_not_matter(self, where, N, random):
        order = random.sample(range(len(where)), len(where))
        origin, shape = ref.canvas_geometry(where, N)
        again, same = ref.canvas_geometry(where[order], N)
        assert (again.tolist(), same) == (origin.tolist(), shape)

    @pytest.mark.parametrize("bad", [[], [1.0, 2.0], [[1.0, 2.0, 3.0]]])
    def test_positions_are_pairs(self, bad):
        with pytest.raises(ContractError, match=r"expected \(pattern, 2\)"):
            ref.canvas_geometry(bad, 4)


class TestPatches:
    @given(N=pst.sizes, i=st.data(), fx=st.floats(0, 0.999), fy=st.floats(0, 0.999))
    def test_single_bright_pixel(self, N, i, fx, fy):
        """Invariants 11, 12: object pixel (Y, X) appears at patch pixel (Y - y + N//2, X - x + N//2)."""
        row, column = i.draw(st.integers(0, N - 2)), i.draw(st.integers(0, N - 2))
        x, y, origin = 103.0, 57.0, np.array([40.0, 80.0])
        canvas = np.zeros((60, 70))
        canvas[57 - 40 - N // 2 + row + 1, 103 - 80 - N // 2 + column + 1] = 1.0
        (patch,) = ref.extract_patches(canvas, [[x + fx, y + fy]], N, origin).real
        expected = np.zeros((N, N))
        expected[row + 1, column + 1] = (1 - fy) * (1 - fx)
        expected[row + 1, column] = (1 - fy) * fx
        expected[row, column + 1] = fy * (1 - fx)
        expected[row, column] = fy * fx
        np.testing.assert_allclose(patch, expected, atol=1e-12)

    @given(where=pst.positions(offset_px=1000), N=pst.sizes, c=st.tuples(*[st.floats(-2, 2)] * 4))
    def test_bilinear_reading_is_exact_for_bilinear_objects(self, where, N, c):
        """PHY-4 in closed form: a + b x + c y + d x y is read without error, at any fraction."""
        origin, shape = ref.canvas_geometry(where, N)

        def surface(y, x):
            y, x = y - origin[0], x - origin[1]
            return c[0] + c[1] * x + c[2] * y + c[3] * x * y

        rows, columns = np.mgrid[: shape[0], : shape[1]]
        patches = ref.extract_patches(surface(rows + origin[0], columns + origin[1]), where, N, origin)
        i, j = np.mgrid[:N, :N]
        for patch, (x, y) in zip(patches, where, strict=True):
            np.testing.assert_allclose(patch, surface(y - N // 2 + i, x - N // 2 + j), atol=1e-7)

    @given(where=pst.positions(), N=pst.sizes, rng=pst.generators)
    def test_scatter_add_is_the_adjoint(self, where, N, rng):
        """PHY-5, with complex object and patches; and invariant 16: nothing is lost."""
        origin, shape = ref.canvas_geometry(where, N)
        canvas, patches = complex_normal(rng, *shape), complex_normal(rng, len(where), N, N)
        added = ref.scatter_add(patches, where, shape, origin)
        left = np.vdot(ref.extract_patches(canvas, where, N, origin), patches)
        assert left == pytest.approx(np.vdot(canvas, added), rel=1e-10, abs=1e-8)
        assert added.sum() == pytest.approx(patches.sum(), rel=1e-10, abs=1e-8)

    @given(where=pst.positions(min_count=2), N=pst.sizes, rng=pst.generators)
    def test_patches_and_positions_belong_together(self, where, N, rng):
        """Invariant 13: permuting both leaves the canvas; unequal counts raise."""
        origin, shape = ref.canvas_geometry(where, N)
        patches, order = complex_normal(rng, len(where), N, N), rng.permutation(len(where))
        added = ref.scatter_add(patches, where, shape, origin)
        np.testing.assert_allclose(ref.scatter_add(patches[order], where[order], shape, origin), added, atol=1e-12)
        with pytest.raises(ContractError, match=f"{len(where)} patches and {len(where) - 1} positions"):
            ref.scatter_add(patches, where[1:], shape, origin)

    @given(where=pst.positions(), N=pst.sizes, rng=pst.generators)
    def test_transposing_object_and_positions_transposes_patches(self, where, N, rng):
        """Invariant 11: x is the column."""
        origin, shape = ref.canvas_geometry(where, N)
        canvas = complex_normal(rng, *shape)
        patches = ref.extract_patches(canvas, where, N, origin)
        turned = ref.extract_patches(canvas.T, where[:, ::-1], N, origin[::-1])
        np.testing.assert_allclose(turned, patches.transpose(0, 2, 1), atol=1e-12)

    @given(where=pst.positions(), N=pst.sizes, rng=pst.generators, value=st.complex_numbers(max_magnitude=10))
    def test_constant_patches_merge_to_the_constant(self, where, N, rng, value):
        """Invariant 17: partition of unity, and uncovered pixels are marked."""
        origin, shape = ref.canvas_geometry(where, N)
        weight = rng.uniform(0.1, 1, (N, N))
        canvas, total = ref.merge_patches(np.full((len(where), N, N), value), weight, where, shape, origin)
        np.testing.assert_allclose(canvas[total > 0], value, rtol=1e-9, atol=1e-12)
        assert (canvas[total == 0] == 0).all()
        assert total.sum() == pytest.approx(len(where) * weight.sum())

    @pytest.mark.parametrize("position", [[1.5, 5], [5, 1.5], [8.5, 5], [5, 8.5]])
    def test_a_patch_off_the_canvas_raises(self, position):
        """Invariant 16: nothing is clipped or wrapped."""
        with pytest.raises(ContractError, match=r"patches on the canvas, found pattern 0 .* enlarge the canvas"):
            ref.extract_patches(np.ones((10, 10)), [position], 4, [0, 0])
        with pytest.raises(ContractError, match="patches on the canvas"):
            ref.scatter_add(np.ones((1, 4, 4)), [position], (10, 10), [0, 0])


class TestForward:
    @given(N=st.integers(2, 12), rng=pst.generators)
    def test_far_field_is_the_unitary_centred_dft(self, N, rng):
        """Invariant 5 against the sum of exponentials: frequency k - N//2 at pixel k."""
        wave = complex_normal(rng, N, N)
        frequency = np.arange(N) - N // 2
        kernel = np.exp(-2j * np.pi * np.outer(frequency, np.arange(N)) / N) / math.sqrt(N)
        np.testing.assert_allclose(ref.far_field(wave), kernel @ wave @ kernel.T, atol=1e-10)

    @given(N=st.integers(2, 33), modes=st.integers(1, 3), dtype=st.sampled_from(["c8", "c16"]), rng=pst.generators)
    def test_parseval(self, N, modes, dtype, rng):
        """Invariant 5: counts equal the energy of the exit wavefields, also for odd sizes and all dtypes."""
        patches = complex_normal(rng, 2, N, N).astype(dtype)
        probe = complex_normal(rng, modes, N, N).astype(dtype)
        counts = ref.simulate_counts(patches, probe)
        energy = (np.abs(patches[:, None].astype("c16") * probe) ** 2).sum(axis=(1, 2, 3))
        np.testing.assert_allclose(counts.sum(axis=(1, 2)), energy, rtol=1e-12)

    @given(scan=pst.scans(N=8), rng=pst.generators)
    def test_patterns_do_not_depend_on_the_batch_and_modes_add(self, scan, rng):
        """Invariant 8: f(batch)[i] == f([x_i]) for any number of modes; modes add as intensities."""
        patches = complex_normal(rng, 3, 8, 8)
        together = ref.simulate_counts(patches, scan.probe, background=0.5)
        for patch, pattern in zip(patches, together, strict=True):
            alone = sum(ref.simulate_counts(patch[None], mode[None])[0] for mode in scan.probe)
            np.testing.assert_allclose(pattern, alone + 0.5, rtol=1e-12)

    @given(scan=pst.scans())
    def test_truth_reproduces_noiseless_data(self, scan):
        """Invariant 21: and an empty object gives the mean counts, by the normalisation of the probe."""
        patches = ref.extract_patches(scan.object_truth, scan.positions_px, scan.N, scan.object_origin_yx_px)
        np.testing.assert_allclose(ref.simulate_counts(patches, scan.probe), scan.counts(), rtol=1e-4, atol=1e-3)
        empty = ref.simulate_counts(np.ones((1, scan.N, scan.N)), scan.probe)
        assert empty.sum() == pytest.approx(1e4, rel=1e-5)

    @given(scan=pst.scans(N=7), factor=st.floats(1e-3, 1e3), mean=st.floats(1, 1e6))
    def test_normalisation(self, scan, factor, mean):
        """Invariant 2: one normalisation, whatever the earlier factor of the probe; its shape is kept."""
        normalised = ref.normalised_probe(scan.probe * factor, mean)
        assert np.sum(np.abs(normalised) ** 2) == pytest.approx(mean, rel=1e-9)
        np.testing.assert_allclose(normalised, ref.normalised_probe(scan.probe, mean), rtol=1e-4, atol=1e-6)

    def test_a_probe_of_zero_energy_cannot_be_normalised(self):
        with pytest.raises(ContractError, match="energy in the probe"):
            ref.normalised_probe(np.zeros((1, 4, 4)), 10.0)

    @given(scan=pst.scans(), N=pst.sizes)
    def test_the_twin_explains_the_same_data(self, scan, N):
        """PHY-13: where the probe vanishes in the row and column that have no mirror image."""
        probe = scan.probe.copy()
        if scan.N % 2 == 0:
            probe[:, 0, :] = probe[:, :, 0] = 0
        arrays = scan.object_truth, probe, scan.positions_px, scan.object_origin_yx_px
        canvas, mirrored, where, origin = ref.twin(*arrays)
        ours = ref.simulate_counts(
            ref.extract_patches(scan.object_truth, scan.positions_px, scan.N, scan.object_origin_yx_px), probe
        )
        padded = np.pad(canvas, 1)  # an even patch reaches one pixel further on its other side
        theirs = ref.simulate_counts(ref.extract_patches(padded, where, scan.N, origin - 1), mirrored)
        np.testing.assert_allclose(theirs, ours, rtol=1e-6, atol=1e-6)


LOSSES = [ref.amplitude_loss, ref.poisson_loss]


class TestLosses:
    def test_by_hand(self):
        """PHY-16, PHY-17, PHY-22 on two pixels."""
        simulated, measured = [[[4.0, 0.0]]], [[[1.0, 9.0]]]
        e = 0.5
        amplitude = (math.sqrt(4.5) - math.sqrt(1.5)) ** 2 + (math.sqrt(0.5) - math.sqrt(9.5)) ** 2
        poisson = (4 - 1 - 1.5 * math.log(4.5 / 1.5)) + (0 - 9 - 9.5 * math.log(0.5 / 9.5))
        assert ref.amplitude_loss(simulated, measured, e) == pytest.approx(amplitude / 10)
        assert ref.poisson_loss(simulated, measured, e) == pytest.approx(poisson / 10)
        assert ref.residual(simulated, measured) == pytest.approx((1 + 9) / 10)

    @pytest.mark.parametrize("loss", [*LOSSES, ref.residual])
    def test_bad_pixels_do_not_count(self, loss):
        """PHY-9."""
        good = np.array([[True, False], [True, True]])
        measured, simulated = np.full((3, 2, 2), 5.0), np.full((3, 2, 2), 2.0)
        spoilt = measured.copy()
        spoilt[:, 0, 1] = 1e6
        assert loss(simulated, spoilt, good=good) == pytest.approx(loss(simulated, measured))

    def test_shapes_must_agree(self):
        with pytest.raises(ContractError, match="give arrays of equal shape"):
            ref.residual(np.ones((2, 3, 3)), np.ones((1, 3, 3)))

    @given(n=st.floats(0, 1e4), ratio=st.floats(0, 3), eps=st.sampled_from([1e-6, EPS_COUNTS, 1.0]))
    def test_least_at_the_measured_counts(self, n, ratio, eps):
        """Invariant 4: 0 at I = n, positive elsewhere, finite at I = 0 and n = 0."""
        simulated = ratio * n if n else ratio
        others = np.array([[[7.0]]])
        for loss in LOSSES:
            value = loss(np.dstack([[[simulated]], others]), np.dstack([[[n]], others]), eps)
            assert math.isfinite(value)
            assert value >= -1e-12
            assert loss(np.dstack([[[n]], others]), np.dstack([[[n]], others]), eps) == 0
            if abs(simulated - n) > 1e-3 * (n + eps):
                assert value > 0

    @pytest.mark.parametrize("loss", LOSSES)
    @given(scan=pst.scans(min_count=3), rng=pst.generators, size=st.floats(0.05, 1))
    def test_the_true_object_is_the_best(self, loss, scan, rng, size):
        """Invariant 4: loss(truth) < loss(perturbed), and < loss(uniform)."""
        where, origin, truth = scan.positions_px, scan.object_origin_yx_px, scan.object_truth.astype(complex)

        def loss_of(canvas):
            patches = ref.extract_patches(canvas, where, scan.N, origin)
            return loss(ref.simulate_counts(patches, scan.probe), scan.counts())

        perturbed = truth * np.exp(1j * size * rng.normal(size=truth.shape))
        assert loss_of(truth) < 1e-6
        assert loss_of(truth) < loss_of(perturbed)
        assert loss_of(truth) < loss_of(np.ones_like(truth))

    @given(scan=pst.scans(N=8), factor=st.floats(0.1, 100))
    def test_dose_changes_the_probe_alone(self, scan, factor):
        """Invariant 1: counts times k, probe times sqrt k: the same object has residual 0."""
        patches = ref.extract_patches(scan.object_truth, scan.positions_px, scan.N, scan.object_origin_yx_px)
        brighter = ref.simulate_counts(patches, scan.probe * np.sqrt(factor))
        assert ref.residual(brighter, scan.counts() * factor) < 1e-9

    @given(mean=st.sampled_from([0.01, 0.3, 2.0, 30.0, 99.9, 100.1, 400.0]), seed=st.integers(0, 3))
    def test_poisson_floor(self, mean, seed):
        """PHY-23: the mean residual of photon noise, drawn."""
        expected = np.full(200_000, mean)
        drawn = np.random.default_rng(seed).poisson(expected)
        floor = ref.poisson_floor(expected)
        assert np.sum((np.sqrt(drawn) - np.sqrt(expected)) ** 2) / expected.sum() == pytest.approx(floor, rel=0.03)

    def test_poisson_floor_in_the_limits(self):
        assert ref.poisson_floor([1e-9]) == pytest.approx(2, rel=1e-4)
        assert ref.poisson_floor([1e8]) == pytest.approx(0.25e-8, rel=1e-6)
        assert ref.poisson_floor([99.999]) == pytest.approx(ref.poisson_floor([100.001]), rel=1e-3)

    @given(rng=pst.generators, factor=st.floats(1e-3, 1e6))
    def test_input_scale_gives_mean_square_one(self, rng, factor):
        """PHY-21."""
        counts = factor * rng.poisson(3.0, (4, 6, 6))
        assume(counts.sum() > 0)
        assert np.mean((ref.input_scale(counts) * np.sqrt(counts)) ** 2) == pytest.approx(1)


@pytest.mark.shared_data
class TestMeasured:
    """The same conventions as data that others made."""

    def test_uniform_object_on_the_siemens_star(self, shared_data):
        """Counts, unit, normalisation and transform: R of a uniform object on held-out patterns, known to be 0.198."""
        with np.load(shared_data / "siemens_star.npz") as file:
            counts = file["diff3d"].astype(float) ** 2
            probe = file["probeGuess"]
        held = np.random.default_rng(0).permutation(516)[:52]
        probe = ref.normalised_probe(probe[None], np.delete(counts, held, axis=0).sum(axis=(1, 2)).mean())
        uniform = ref.simulate_counts(np.ones((1, *counts.shape[1:])), probe)
        assert ref.residual(np.broadcast_to(uniform, (52, 128, 128)), counts[held]) == pytest.approx(0.198, abs=0.0006)

    def test_the_truth_of_synth64_reaches_its_poisson_floor(self, shared_data):
        """Axis order, position of the patch, centre of the pattern: any error raises R."""
        with np.load(shared_data / "synth64.npz") as file:
            chosen = slice(None, None, 20)
            counts = file["diff3d"][chosen].astype(float) ** 2
            where = np.stack([file["xcoords"], file["ycoords"]], axis=1)[chosen]
            truth, probe = file["objectGuess"], file["probeGuess"]

        def simulate(positions):
            return ref.simulate_counts(ref.extract_patches(truth, positions, 64, (0, 0)), probe[None])

        floor = ref.poisson_floor(simulate(where))
        # The file was simulated with a finer interpolation than bilinear, which costs a tenth of the floor.
        right = ref.residual(simulate(where), counts)
        assert 0.9 * floor < right < 1.2 * floor
        assert ref.residual(simulate(where[:, ::-1]), counts) > 5 * floor
        for half_pixel in ([0.5, 0], [-0.5, 0], [0, 0.5], [0, -0.5]):
            assert ref.residual(simulate(where + half_pixel), counts) > 1.05 * right
