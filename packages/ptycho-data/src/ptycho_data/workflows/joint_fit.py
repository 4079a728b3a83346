"""A joint reconstruction from coarse to fine, with a prior (specs/physics.md, PHY-36; specs/prior.md, PRI-11)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.config import ReconstructionConfig
from ptycho_contracts.physics import COARSE_PASSES, PRIOR_PASSES

from ptycho_data.canvas import coarse_sides
from ptycho_data.canvas.levels import LEAST_ENERGY
from ptycho_data.deadline import Deadline, TimeOver
from ptycho_data.fitting import JointFit, Prior
from ptycho_data.fitting.checkpoints import CheckpointPlan, FitStart
from ptycho_data.fitting.priors import RELEASED
from ptycho_data.fitting.probes import normalised_probe
from ptycho_data.grouping import validation_indices
from ptycho_data.stages import Progress, changed
from ptycho_data.workflows.backend import Backend
from ptycho_data.workflows.levels import Level, lifted, light_of, object_from_levels
from ptycho_data.workflows.options import joint_options
from ptycho_data.workflows.prepared_scan import PreparedScan
from ptycho_data.workflows.results import residual_of

FIRST_EPOCHS = 4
"""Epochs at full resolution that find a guessed probe before the coarse levels rely on it. Measured
(benchmarks/RESULTS.md): enough for four guesses; without them the levels of a wrong guess lead astray."""
FULL_PASSES = 16
"""Passes with the prior at full resolution where no coarse level holds the probe. Measured (benchmarks/RESULTS.md)."""
FIRST_EPOCHS_PART = 0.5
"""Part of the time of the coarse levels for them, if it is limited."""
SIGMA_FROM_OBJECT = 0.15
"""Noise level at the start of a fit whose object comes from coarse levels, or from a network."""
COMPARED_PATTERNS = 64
"""Most patterns on which objects are compared."""
LEAST_ENERGY_FOUND = 0.995
"""As ``LEAST_ENERGY``, for a probe that a few epochs found: of few photons it has noise at all frequencies. Measured
(benchmarks/RESULTS.md): .0011 of the energy at 300 photons per pattern."""
POISSON_BELOW_PER_PX = 1000.0
"""Photons per illuminated object pixel below which the loss is the Poisson likelihood. Measured
(benchmarks/RESULTS.md): at 230 it leaves a third less error, at 1,700 of a measured scan it follows what the model
lacks."""


@dataclass(frozen=True, eq=False)
class Start:
    """Where a joint reconstruction begins.

    Attributes:
        object: (H, W) complex64, or None: empty space.
        probe: (K, N, N) complex64.
        levels_px: Sides of the coarse levels that the object comes from.
        epochs: Epochs that found the probe.
    """

    object: NDArray[np.complex64] | None
    probe: NDArray[np.complex64]
    levels_px: tuple[int, ...] = ()
    epochs: int = 0

    def kept(
        self, modes: NDArray[np.complex64], search: dict[str, Any] | None, shortened: Sequence[str] = ()
    ) -> FitStart:
        """What a checkpoint keeps of it; the object of a fit is in the state of the fit.

        Args:
            modes: (K, N, N) before the coarse levels.
            search: What found them.
            shortened: What was shortened on the way (TIME-3).
        """
        facts = {"levels_px": self.levels_px, "epochs": self.epochs, "from_object": self.object is not None}
        return FitStart(
            {"modes": modes, "probe": self.probe}, {**facts, "search": search, "shortened": list(shortened)}
        )

    @classmethod
    def resumed(cls, first: FitStart, shape: tuple[int, int]) -> Start:
        """The start of a fit that resumes: its object is replaced by that of the checkpoint.

        Args:
            first: From :meth:`kept`.
            shape: Of the canvas.
        """
        facts = first.facts
        object_ = np.ones(shape, np.complex64) if facts["from_object"] else None
        return cls(object_, first.probes["probe"], tuple(facts["levels_px"]), int(facts["epochs"]))


@dataclass(frozen=True, eq=False)
class Guided:
    """What guides a joint reconstruction, from its options and the scan's light.

    Attributes:
        prior: Of the object, or None.
        fitted: Patterns that are fitted.
        validating: Patterns that validate the fit.
        photons_per_px: Of the fitted patterns, by illuminated object pixel.
        options: Of the joint reconstruction, with the loss that fits the light.
    """

    prior: Prior | None
    fitted: NDArray[np.int64]
    validating: NDArray[np.int64]
    photons_per_px: float
    options: dict[str, Any]


def guided(
    prepared: PreparedScan,
    probe: NDArray[np.complex64],
    config: ReconstructionConfig,
    *,
    validation: NDArray[np.int64] | float,
) -> Guided:
    """Loss, prior and validation of a joint reconstruction (PHY-37, PRI-8, PRI-9, PRI-12).

    Args:
        probe: (K, N, N), any scale.
        config: Options.
        validation: Indices of patterns that validate, or their fraction.
    """
    fitted, validating = validation_indices(prepared.used, validation, config.seed)
    photons_per_px = light_of(replace(prepared, used=fitted), probe)
    loss = loss_for(config.loss, photons_per_px)
    prior = None
    if config.prior != "none":
        prior = Prior(
            config.prior or "network",
            photons=prepared.mean_counts * len(fitted),
            photons_per_px=photons_per_px,
            weight=1.0 if config.prior_weight == "auto" else float(config.prior_weight),
            judged=config.prior is None and len(validating) > 0,
        )
    return Guided(prior, fitted, validating, photons_per_px, {**joint_options(config), "loss": loss})


def loss_for(loss: str, photons_per_px: float) -> str:
    """``poisson`` or ``amplitude``, as asked, or as the light says (PHY-37)."""
    if loss != "auto":
        return loss
    return "poisson" if photons_per_px < POISSON_BELOW_PER_PX else "amplitude"


def start_from_levels(
    backend: Backend,
    prepared: PreparedScan,
    probe: NDArray[np.complex64],
    guide: Guided,
    *,
    exact: NDArray[np.complex64] | None,
    levels: int | None,
    device: str,
    deadline: Deadline | None = None,
    progress: Progress | None = None,
) -> Start:
    """The object of a scan's coarse levels, or of passes with the prior at full resolution where no coarse level holds
    the probe, if it explains the patterns better than empty space (PHY-36).

    Args:
        probe: (K, N, N) start, any scale.
        guide: Of the joint reconstruction.
        exact: The probe where it is known, (k, N, N), any scale; if it is not, a few epochs find it first.
        levels: As the option.
    """
    view, prior = replace(prepared, used=guide.fitted), guide.prior
    acts = prior is not None and prior.kind == "network"
    # Without the prior, passes at coarse levels fit the noise where photons are few.
    light = math.inf if acts else guide.photons_per_px
    at_full = acts and levels != 1
    if not coarse_sides(probe, levels=levels, photons_per_px=light) and not at_full:
        return Start(None, probe)
    before: NDArray[np.complex64] | None = None
    found, epochs, until = exact, 0, deadline or Deadline()
    if found is None:
        first = backend.joint_fit(
            prepared.source,
            prepared.sites,
            probe,
            indices=guide.fitted,
            mean_counts=prepared.mean_counts,
            epochs=FIRST_EPOCHS,
            max_seconds=until.part(FIRST_EPOCHS_PART).max_seconds(),
            prior=prior if acts else None,
            device=device,
            progress=progress,
            stage="first epochs",
            **{**guide.options, "position_learning_rate": 0.0, "background_learning_rate": 0.0},
        )
        before, found = first.object, first.probe
        probe = found
        epochs = len(first.losses)
        if epochs < FIRST_EPOCHS:
            until.note(f"first epochs, which find the probe: {epochs} of {FIRST_EPOCHS}")
    unit = normalised_probe(found, 1.0)
    least = LEAST_ENERGY if exact is not None else LEAST_ENERGY_FOUND
    sides = coarse_sides(unit, levels=levels, photons_per_px=light, least_energy=least)
    if not sides and not at_full:
        return Start(before, probe, epochs=epochs)
    finest = Level.of(view, unit, prepared.source.N)
    below = [Level.of(view, unit, side) for side in sides] or [finest]
    schedule = PRIOR_PASSES if acts else COARSE_PASSES
    if not sides:
        schedule = replace(schedule, passes=FULL_PASSES)
    reported = changed(progress, lambda _, done, total: ("coarse levels", done, total))
    options: dict[str, Any] = {"device": device, "prior": prior if acts else None, "progress": reported}
    try:
        object_ = object_from_levels(backend, view, below, schedule, deadline=until, **options)
    except TimeOver:
        until.note("coarse levels")
        return Start(before, probe, epochs=epochs)
    if sides:
        object_ = lifted(object_, below[-1], finest)
    if _explains_better(backend, view, object_, np.ones_like(object_), unit, device):
        return Start(object_, probe, tuple(sides), epochs)
    return Start(before, probe, epochs=epochs)


def guided_fit(
    backend: Backend,
    prepared: PreparedScan,
    begin: Start,
    guide: Guided,
    *,
    epochs: int,
    max_seconds: float | None = None,
    patience: int | None = None,
    checkpoints: CheckpointPlan | None = None,
    device: str,
    progress: Progress | None = None,
    stage: str = "reconstruction",
) -> JointFit:
    """The joint reconstruction itself; arguments as of :func:`ptycho_data.fitting.joint_reconstruction`."""
    prior = guide.prior
    if prior is not None and begin.object is not None:
        prior = replace(prior, first_sigma=SIGMA_FROM_OBJECT)
    return backend.joint_fit(
        prepared.source,
        prepared.sites,
        begin.probe,
        object_start=begin.object,
        indices=guide.fitted,
        mean_counts=prepared.mean_counts,
        epochs=epochs,
        max_seconds=max_seconds,
        prior=prior,
        validation=guide.validating,
        patience=patience,
        checkpoints=checkpoints,
        device=device,
        progress=progress,
        stage=stage,
        **guide.options,
    )


def guidance(guide: Guided, begin: Start, fit: JointFit, N: int) -> dict[str, Any]:
    """What guided a joint reconstruction, for the summary (CLI-22)."""
    prior, best = guide.prior, fit.history.best_epoch
    acted = prior is not None
    if prior is not None and prior.judged and best is not None:
        acted = best <= RELEASED * len(fit.losses)
    return {
        "levels_px": [*begin.levels_px, N],
        "first_epochs": begin.epochs,
        "loss": guide.options["loss"],
        "prior": {
            "kind": "none" if prior is None else prior.kind,
            "acted": acted,
            "photons_per_px": guide.photons_per_px,
            "last_sigma": None if prior is None or prior.kind != "network" else prior.last_sigma,
            "weight": None if prior is None else prior.weight,
        },
    }


def _explains_better(
    backend: Backend,
    prepared: PreparedScan,
    object_: NDArray[np.complex64],
    other: NDArray[np.complex64],
    probe: NDArray[np.complex64],
    device: str,
) -> bool:
    """Whether an object is finite and has a lower R than another one on some of the used patterns."""
    if not np.isfinite(object_).all():
        return False
    some = prepared.used[:: math.ceil(len(prepared.used) / COMPARED_PATTERNS)]
    values = [residual_of(backend, prepared, each, probe, device=device)(some).value for each in (object_, other)]
    return values[0] is not None and values[1] is not None and values[0] < values[1]
