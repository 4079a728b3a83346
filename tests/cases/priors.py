"""Priors of the object (specs/prior.md), one behaviour a test; each backend runs ``TestPriors``."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest
from ptycho_cli.backends import load_backend
from ptycho_contracts.physics import PRIOR_PASSES
from ptycho_contracts.problems import ContractError
from ptycho_contracts.testing import reference_network, reference_prior
from ptycho_data.batches import ModuliStream
from ptycho_data.canvas import canvas_geometry, scan_sites, sparse_subsets
from ptycho_data.fitting import Prior
from ptycho_data.fitting.probes import normalised_probe
from ptycho_data.pretrained import prior_weights
from ptycho_data.simulate import simulate
from ptycho_data.workflows import CanvasTask

FEW = {"epochs": 8, "modes": 1, "accelerator": "cpu"}


def noisy(shape, *, seed=0):
    """A smooth complex canvas with noise."""
    rng = np.random.default_rng(seed)
    y, x = np.meshgrid(*(np.linspace(0, 3, size) for size in shape), indexing="ij")
    noise = rng.normal(0, 0.1, shape) + 1j * rng.normal(0, 0.1, shape)
    return (np.exp(1j * np.sin(2 * y + x)) + noise).astype(np.complex64)


def squared_error(result, scan):
    """Of an object beside the truth, weighted by the light, after the best global phase."""
    top, left = (result.origin_yx_px - scan.object_origin_yx_px).astype(int)
    height, width = result.object.shape
    truth, light = scan.object_truth[top : top + height, left : left + width], result.weight
    turn = (light * result.object.conj() * truth).sum()
    error = light * np.abs(result.object * turn / abs(turn) - truth) ** 2
    return float(error.sum() / (light * np.abs(truth) ** 2).sum())


class Priors:
    """The same for both backends.

    The fixture ``backend`` is a backend's name. ``denoised(canvas, sigma)`` applies the network that is shipped, and
    ``gradient(prior, loss, object_, fraction)`` gives the gradient of a prior's term.
    """

    denoised: staticmethod
    gradient: staticmethod

    @pytest.fixture
    def package(self, backend):
        """The module that a notebook imports."""
        return import_module(f"ptycho_{backend}")

    @pytest.fixture
    def dim(self):
        """144 patterns of 32 x 32 pixels, 300 photons each."""
        return simulate(n_patterns=144, step_px=3.5, N=32, photons_per_pattern=300, seed=4)

    @pytest.mark.parametrize("shape", [(32, 48), (33, 50), (5, 70)])
    def test_network_conformance(self, shape):
        """PRI-1, PRI-2: beside NumPy in float64, for any size, with a noise level that varies."""
        sigma = np.random.default_rng(1).uniform(0.05, 0.3, shape).astype(np.float32)
        found = self.denoised(noisy(shape), sigma)
        expected = reference_prior.denoised(prior_weights(), noisy(shape).astype(np.complex128), sigma)
        np.testing.assert_allclose(found, expected, atol=2e-5)

    def test_a_global_phase_goes_through(self):
        """PRI-2."""
        canvas, sigma = noisy((40, 40)), np.full((40, 40), 0.2, np.float32)
        turned = (canvas * np.exp(2.3j)).astype(np.complex64)
        difference = self.denoised(turned, sigma) - self.denoised(canvas, sigma) * np.exp(2.3j)
        assert np.abs(difference).max() < 1e-5

    def test_noise_is_removed_from_objects_that_it_never_saw(self):
        """What it is for."""
        y, x = np.meshgrid(np.arange(96), np.arange(96), indexing="ij")
        truth = np.where(np.hypot(y - 40, x - 50) < 25, 0.8 * np.exp(1.2j), 1.0)
        rng = np.random.default_rng(3)
        canvas = (truth + 0.2 * (rng.normal(size=y.shape) + 1j * rng.normal(size=y.shape)) / 2**0.5).astype(
            np.complex64
        )
        clean = self.denoised(canvas, np.full(y.shape, 0.2, np.float32))
        assert (np.abs(clean - truth) ** 2).mean() < 0.25 * (np.abs(canvas - truth) ** 2).mean()

    def test_tiles_make_no_difference(self):
        """PRI-3: a canvas of more than 704 px beside NumPy, which has no tiles."""
        sigma = np.full((720, 20), 0.15, np.float32)
        found = self.denoised(noisy((720, 20)), sigma)
        expected = reference_prior.denoised(prior_weights(), noisy((720, 20)).astype(np.complex128), sigma)
        np.testing.assert_allclose(found, expected, atol=2e-5)

    @pytest.mark.parametrize("loss", ["amplitude", "poisson"])
    @pytest.mark.parametrize("kind", ["network", "tv"])
    def test_gradient_of_the_term_conformance(self, kind, loss):
        """PRI-8, PRI-9: beside the formula, for total variation beside its numerical derivative."""
        prior = Prior(kind, photons=5e4, photons_per_px=8.0, weight=1.5)
        object_, eta, half = noisy((20, 24)), 1 / np.sqrt(16), 0.5 if loss == "amplitude" else 1.0
        found = self.gradient(prior, loss, object_, 0.35)
        wide = object_.astype(np.complex128)
        if kind == "network":
            sigma = np.sqrt(0.5 * 0.75 * eta)  # halfway from .5 to .75 eta
            clean = reference_prior.denoised(prior_weights(), wide, np.full(wide.shape, sigma))
            expected = 1.5 * half / 5e4 * (wide - clean) / sigma**2
        else:
            expected = np.zeros_like(wide)
            for place in [(0, 0), (7, 9), (19, 23), (19, 4), (3, 23)]:
                for unit in (1, 1j):
                    step = np.zeros_like(wide)
                    step[place] = 1e-5 * unit
                    change = [reference_prior.total_variation(wide + sign * step) for sign in (1, -1)]
                    expected[place] += unit * (change[0] - change[1]) / 2e-5 * 1.5 * half / 5e4 * 0.25 / eta
            found = np.where(expected == 0, 0, found)
        np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-4 * np.abs(expected).max())

    def test_passes_with_the_prior_conformance(self, backend, dim):
        """PRI-10: Poisson steps, drawn to what the network makes of the object, beside NumPy in complex128."""
        some, mean = np.arange(50), 280.0
        probe, frame = normalised_probe(dim.probe, 1.0), canvas_geometry(dim.positions_px[some], 32)
        sites = scan_sites(dim.positions_px[some], frame, 32)
        subsets = sparse_subsets(probe, sites)
        prior = Prior("network", photons=mean * 50, photons_per_px=6.0)
        schedule = replace(PRIOR_PASSES, passes=5)
        with ModuliStream(dim, [some[subset] for subset in subsets], passes=5, mean_counts=mean) as moduli:
            task = CanvasTask(moduli, sites, subsets, prior=prior)
            found = load_backend(backend).BACKEND.passes_on_canvas(probe, task, schedule)
        held = SimpleNamespace(pull=None)

        def pull(number, object_):
            if number in (2, 4):
                sigma = 0.5 * (0.2 / 0.5) ** min(1, number / 5 / 0.7)
                clean = reference_prior.denoised(prior_weights(), object_, np.full(object_.shape, sigma))
                held.pull = clean, 50 / (4 * mean * 50 * sigma**2 * len(subsets))
            return held.pull or (object_, 0.0)

        expected = reference_network.passes_on_canvas(
            np.ones(frame.shape),
            np.sqrt(dim.counts(some).astype(np.float64) / mean),
            probe,
            dim.positions_px[some],
            subsets,
            origin_yx_px=frame.origin_yx_px,
            dampings=list(np.geomspace(1, 10, 5)),
            momentum=0.9,
            smoothing=0.03 / mean,
            pull=pull,
        )
        np.testing.assert_allclose(found, expected, atol=1e-3 * np.abs(expected).max())

    def test_few_photons_are_where_it_pays(self, package, dim):
        """A reconstruction at 300 photons per pattern: the error is a fraction of that without a prior."""
        errors = {}
        for prior in ("network", "tv", "none"):
            result, summary = package.reconstruct(dim, prior=prior, **FEW)
            errors[prior] = squared_error(result, dim)
            assert summary["prior"]["kind"] == prior
            assert summary["loss"] == "poisson"
        assert errors["network"] < 0.4 * errors["none"]
        assert errors["tv"] < 0.7 * errors["none"]

    def test_a_guessed_probe_is_found_first(self, package, dim):
        """PHY-36: its coarse levels rely on what a few epochs found; an exact probe needs none."""
        guessed = package.reconstruct(replace(dim, probe_kind="guess"), **FEW)[1]
        exact = package.reconstruct(dim, **FEW)[1]
        assert (guessed["first_epochs"], exact["first_epochs"]) == (4, 0)
        assert guessed["levels_px"] == exact["levels_px"] == [16, 32]
        assert package.reconstruct(dim, levels=1, **FEW)[1]["levels_px"] == [32]

    def test_a_probe_that_no_level_holds(self, package):
        """PHY-36: passes with the prior at full resolution bring the low frequencies that a fit brings slowly."""
        rng, q = np.random.default_rng(3), np.fft.fftfreq(32)
        y, x = np.meshgrid(q / 0.3, q / 0.3, indexing="ij")
        phase = sum(rng.normal(0, 2) * x**i * y**j for i in range(4) for j in range(4 - i) if i + j >= 2)
        probe = np.fft.fftshift(np.fft.ifft2((np.hypot(x, y) < 1) * np.exp(1j * phase)))[None].astype(np.complex64)
        scan = simulate(
            object_kind="random_field", n_patterns=100, step_px=5.0, photons_per_pattern=3e4, seed=8, probe=probe
        )
        errors = {}
        for levels in (1, None):
            image, summary = package.reconstruct(scan, levels=levels, **FEW)
            errors[levels] = squared_error(image, scan)
            assert summary["levels_px"] == [32]
        assert errors[None] < 0.7 * errors[1]

    def test_the_loss_follows_the_light(self, package, dim):
        """PHY-37."""
        bright = simulate(n_patterns=40, step_px=3.5, N=32, photons_per_pattern=1e5, seed=4)
        assert package.reconstruct(bright, **{**FEW, "epochs": 1})[1]["loss"] == "amplitude"
        assert package.reconstruct(bright, loss="poisson", **{**FEW, "epochs": 1})[1]["loss"] == "poisson"

    def test_validation_may_dismiss_it(self, package, dim):
        """PRI-12: it acts for 80 % of the epochs, and is kept unless validation says clearly otherwise."""
        _, summary = package.reconstruct(dim, val_fraction=0.1, **{**FEW, "epochs": 10})
        assert summary["prior"]["acted"] is (summary["validation"]["best_epoch"] <= 8)
        assert package.reconstruct(dim, val_fraction=0.1, prior="none", **FEW)[1]["prior"]["acted"] is False

    def test_a_weight_counts(self, package, dim):
        """``prior_weight``: a factor of what the noise implies."""
        images = [package.reconstruct(dim, prior_weight=weight, **FEW)[0].object for weight in ("auto", "1", "20")]
        np.testing.assert_array_equal(images[0], images[1])
        assert np.abs(images[2] - images[0]).max() > 0.01

    def test_the_same_bits_again(self, package, dim):
        """PHY-29, with coarse levels and the prior."""
        first, again = (package.reconstruct(dim, **FEW)[0].object for _ in range(2))
        np.testing.assert_array_equal(first, again)

    def test_pretrained_images_a_scan_without_a_training(self, package, dim):
        """IMG-9: as a reconstruction with the prior; the same bits again; with an exact probe nothing is calibrated."""
        stages = set()
        image, summary = package.infer("pretrained", dim, accelerator="cpu", progress=lambda *told: stages.add(told[0]))
        again, _ = package.infer("pretrained", dim, accelerator="cpu")
        np.testing.assert_array_equal(image.object, again.object)
        reference = package.reconstruct(dim, prior="network", modes=1, epochs=20, accelerator="cpu")[0]
        assert squared_error(image, dim) < 1.3 * squared_error(reference, dim)
        assert summary["levels_px"] == [16, 32]
        assert summary["probe"]["source"] == "scan"
        assert summary["pretrained"]["prior"]["settings"]["seed"] == 0
        assert "calibration" not in stages

    def test_pretrained_calibrates_a_guess(self, package):
        """IMG-9: modes without power are left out."""
        scan = simulate(n_patterns=200, step_px=4.0, N=32, photons_per_pattern=1e5, seed=6)
        defocus = np.exp(0.4j * np.pi * 32 * np.add.outer(np.fft.fftfreq(32) ** 2, np.fft.fftfreq(32) ** 2))
        wrong = np.fft.ifft2(np.fft.fft2(scan.probe) * defocus).astype(np.complex64)
        guessed, stages = replace(scan, probe=wrong, probe_kind="guess"), set()
        image, summary = package.infer(
            "pretrained", guessed, accelerator="cpu", progress=lambda *told: stages.add(told[0])
        )
        assert len(image.probe) == 1
        assert "calibration" in stages
        assert summary["residual"]["used"] < 2 * summary["poisson_floor"]["used"]

    def test_pretrained_has_a_canvas_and_takes_refinement(self, package, dim):
        """IMG-9."""
        with pytest.raises(ContractError, match=r"inference\.assembly"):
            package.infer("pretrained", dim, assembly="groups", accelerator="cpu")
        image, summary = package.infer("pretrained", dim, refine=3, prior="network", accelerator="cpu")
        assert summary["prior"]["kind"] == "network"
        assert squared_error(image, dim) < 0.02
