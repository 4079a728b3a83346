"""Joint reconstruction of object, probe modes, positions and background (specs/physics.md, PHY-27 to PHY-32).

Minibatch gradient descent with Adam [Adam] on the far-field loss, in the manner of [AutomaticDifferentiation] with
the mixed states of [MixedStates] (specs/references.md). Framework-free: a backend differentiates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_data.batches import PatternSource
from ptycho_data.canvas import Sites, illumination, last_start_yx
from ptycho_data.checksums import Checksum, raw, sha256_of
from ptycho_data.fitting.checkpoints import CheckpointPlan
from ptycho_data.fitting.loop import Arrays, Fit, History, fit_loop
from ptycho_data.fitting.priors import Prior
from ptycho_data.fitting.probes import orthogonal_modes
from ptycho_data.stages import Picture, Progress

ADAM_BETAS = (0.9, 0.99)
"""Of [Adam]. A short second memory: the loss falls by orders of magnitude within a few hundred steps."""
FIRST_ROOT_BACKGROUND = 1e-3
"""The background is the square of its parameter, so that it is never negative; at 0 it would have no gradient."""
_BLOCK_PATTERNS = 64


@dataclass(frozen=True, eq=False)
class JointProblem:
    """What is fitted, in the units in which Adam steps: one rate suits every scan.

    Attributes:
        source: Scan or store; read a minibatch at a time.
        sites: Where all of the source's patterns lie on the canvas.
        probe: (K, N, N) complex start, any scale.
        object_start: (H, W) complex64 for a probe of unit energy.
        mean_counts: Mean photons per pattern.
        loss: ``"amplitude"`` or ``"poisson"``.
        rates: Steps of object, probe modes, positions and background; 0 keeps one as it is.
        prior: Of the object, or None.
    """

    source: PatternSource
    sites: Sites
    probe: NDArray[Any]
    object_start: NDArray[np.complex64]
    mean_counts: float
    loss: str
    rates: tuple[float, float, float, float]
    prior: Prior | None = None

    @cached_property
    def _unit_probe(self) -> NDArray[np.complex128]:
        unit: NDArray[np.complex128] = np.array(self.probe, np.complex128)
        energy = float((np.abs(self.probe) ** 2).sum(dtype=np.float64))
        return unit / np.float64(np.sqrt(energy))

    @cached_property
    def peak(self) -> float:
        """Largest amplitude of the probe of unit energy: the unit of the modes."""
        return float(np.abs(self._unit_probe).max())

    @property
    def modes(self) -> NDArray[np.complex64]:
        """(K, N, N) modes in units of their peak."""
        return (self._unit_probe / self.peak).astype(np.complex64)

    @cached_property
    def light(self) -> NDArray[np.float32]:
        """(H, W) illumination of the canvas by all patterns with the probe of the start."""
        return illumination(self._unit_probe.astype(np.complex64), self.sites)

    @property
    def pixel(self) -> float:
        """Unit of the background: the mean intensity of a pixel in units of the mean counts."""
        return 1.0 / self.sites.N**2

    @property
    def last_start_yx(self) -> NDArray[np.float64]:
        """Largest corner with fraction of a patch whose position moves."""
        return last_start_yx(self.sites.shape, self.sites.N)


@dataclass(frozen=True, eq=False)
class JointFit:
    """Outcome of a joint reconstruction.

    Attributes:
        object: (H, W) complex64, for a probe of unit energy.
        probe: (K, N, N) complex64 of unit energy, orthogonal modes, strongest first.
        losses: Mean training loss of each epoch that was finished.
        shifts_yx_px: (M, 2) float64, what to add to each position to get where its pattern saw this object; 0 for
            patterns that were not fitted, and if positions were kept.
        background: (N, N) float32 in units of the mean counts, zero frequency at [0, 0]; 0 if none was fitted.
        history: Validation, stopping and checkpoints.
    """

    object: NDArray[np.complex64]
    probe: NDArray[np.complex64]
    losses: tuple[float, ...]
    shifts_yx_px: NDArray[np.float64]
    background: NDArray[np.float32]
    history: History


def joint_reconstruction(
    make: Callable[[JointProblem], Fit],
    source: PatternSource,
    sites: Sites,
    probe: NDArray[np.complex64],
    *,
    indices: NDArray[np.int64],
    mean_counts: float,
    epochs: int,
    batch_size: int,
    object_learning_rate: float,
    probe_learning_rate: float,
    loss: str,
    seed: int,
    position_learning_rate: float = 0.0,
    background_learning_rate: float = 0.0,
    object_start: NDArray[np.complex64] | None = None,
    prior: Prior | None = None,
    max_seconds: float | None = None,
    validation: NDArray[np.int64] | None = None,
    patience: int | None = None,
    checkpoints: CheckpointPlan | None = None,
    progress: Progress | None = None,
    stage: str = "reconstruction",
) -> JointFit:
    """Fit object and probe, and positions and background if asked, to the counts of patterns of one scan.

    Args:
        make: Makes a backend's parameters of a problem.
        source: Scan or store; read a minibatch at a time.
        sites: Where all of the source's patterns lie on the canvas.
        probe: (K, N, N) start, any scale.
        indices: Patterns to fit.
        mean_counts: Their mean photons per pattern.
        epochs, batch_size, loss, seed: Passes, patterns per step, name of the loss, seed of the order.
        object_learning_rate: Step in units of the object's amplitude.
        probe_learning_rate: Step in units of the probe's largest amplitude; 0 keeps the probe.
        position_learning_rate: Step in pixels; 0 keeps the positions. They stay on the canvas.
        background_learning_rate: Step in units of the root mean intensity of a pixel; 0 fits none.
        object_start: (H, W) complex for a probe of unit energy; default: empty space.
        prior: Of the object; default: none.
        max_seconds: The schedule ends after this wall time, if not earlier.
        validation: Patterns that are not fitted, and whose loss selects the epoch that is returned.
        patience: Epochs without a lower validation loss before the fit stops; default: never.
        checkpoints: Where the state is kept between epochs, and whether to resume from it.
        progress: Called as ``progress(stage, steps done, steps in all)``.

    Raises:
        WorkFailedError: the fit diverged, or a checkpoint could not be written.
        ContractError: a checkpoint of another run, or a broken one.
    """
    start = np.ones(sites.shape, np.complex64) if object_start is None else np.array(object_start, np.complex64)
    rates = (object_learning_rate, probe_learning_rate, position_learning_rate, background_learning_rate)
    problem = JointProblem(source, sites, probe, start, mean_counts, loss, rates, prior)
    kept = None
    if checkpoints is not None:
        options: dict[str, Any] = {
            "batch_size": batch_size,
            "seed": seed,
            "patience": patience,
            "prior": None if prior is None else asdict(prior),
        }
        kept = checkpoints.opened(joint_facts(problem, indices, validation, **options))
    fit = make(problem)
    history = fit_loop(
        fit,
        indices=indices,
        epochs=epochs,
        batch_size=batch_size,
        seed=seed,
        max_seconds=max_seconds,
        validation=validation,
        patience=patience,
        checkpoints=kept,
        progress=progress,
        stage=stage,
        prior=prior,
        picture=lambda: Picture(from_pairs(fit.parameters()["object"]), problem.light),
    )
    return _outcome(problem, fit.parameters(), indices, history)


def joint_facts(
    problem: JointProblem, indices: NDArray[np.int64], validation: NDArray[np.int64] | None, **options: Any
) -> dict[str, Any]:
    """Whose state a checkpoint of this fit is (CKP-5); every pattern that is used is read once.

    Args:
        problem: What is fitted. If it starts from an object, the plan of the checkpoints says how that was made.
        indices, validation: Patterns that are fitted, and that validate.
        options: JSON values.
    """
    held = np.empty(0, np.int64) if validation is None else validation
    used = np.sort(np.concatenate([indices, held]))
    counts = Checksum()
    for first in range(0, len(used), _BLOCK_PATTERNS):
        counts.update(raw(problem.source.counts(used[first : first + _BLOCK_PATTERNS])))
    bad = None if problem.source.bad_pixels is None else np.asarray(problem.source.bad_pixels)
    sites = problem.sites[used]
    return {
        "fit": {
            **options,
            "rates": list(problem.rates),
            "loss": problem.loss,
            "mean_counts": problem.mean_counts,
            "canvas": list(problem.sites.shape),
        },
        "patterns": counts.hexdigest(),
        "places": sha256_of(indices, held, bad, sites.corners_yx, sites.fractions_yx),
        "probe": sha256_of(problem.probe),
    }


def _outcome(problem: JointProblem, fitted: Arrays, indices: NDArray[np.int64], history: History) -> JointFit:
    """Orthogonal modes of unit energy, and the object, positions and background that go with them."""
    sites, (_, _, position_rate, background_rate) = problem.sites, problem.rates
    modes = orthogonal_modes(from_pairs(fitted["modes"]) * np.float32(problem.peak))
    scale = float(np.sqrt((np.abs(modes) ** 2).sum(dtype=np.float64)))
    shifts = np.zeros((len(sites), 2))
    if position_rate > 0:
        # As used in the fit: clipped to the canvas.
        start = sites.corners_yx + sites.fractions_yx
        moved = np.clip(start + fitted["shifts_yx_px"], 0, problem.last_start_yx)
        shifts[indices] = (moved - start)[indices]
    background = np.square(fitted["root_background"]) * np.float32(problem.pixel if background_rate > 0 else 0.0)
    return JointFit(
        object=from_pairs(fitted["object"]) * np.complex64(scale),
        probe=modes / np.float32(scale),
        losses=history.losses,
        shifts_yx_px=shifts,
        background=background,
        history=history,
    )


def to_pairs(values: NDArray[Any]) -> NDArray[np.float32]:
    """Complex values as (..., 2) real ones, each with its own moments.

    >>> to_pairs(np.array([1 + 2j])).tolist()
    [[1.0, 2.0]]
    """
    return np.stack((values.real, values.imag), axis=-1).astype(np.float32)


def from_pairs(pairs: NDArray[np.float32]) -> NDArray[np.complex64]:
    """The inverse of :func:`to_pairs`."""
    return np.ascontiguousarray(pairs).view(np.complex64)[..., 0]
