"""Fits by gradient descent, framework-free: loop, checkpoints, probe estimation, collapse (PHY-27, TRN)."""

from ptycho_data.fitting.attempts import Attempts, no_better_than_uniform
from ptycho_data.fitting.joint import (
    ADAM_BETAS,
    FIRST_ROOT_BACKGROUND,
    JointFit,
    JointProblem,
    joint_reconstruction,
    to_pairs,
)
from ptycho_data.fitting.priors import Prior
from ptycho_data.fitting.residual import FarFieldResidual, far_field_residual
from ptycho_data.fitting.schedules import half_cosine, rate_factor
from ptycho_data.fitting.training import (
    PATCH_VARIANCE,
    WEIGHT_DECAY,
    TrainingInterrupted,
    TrainingOutcome,
    training_diverged,
    training_outcome,
)
from ptycho_data.fitting.training_checkpoints import TrainingCheckpoints

__all__ = [
    "ADAM_BETAS",
    "FIRST_ROOT_BACKGROUND",
    "PATCH_VARIANCE",
    "WEIGHT_DECAY",
    "Attempts",
    "FarFieldResidual",
    "JointFit",
    "JointProblem",
    "Prior",
    "TrainingCheckpoints",
    "TrainingInterrupted",
    "TrainingOutcome",
    "far_field_residual",
    "half_cosine",
    "joint_reconstruction",
    "no_better_than_uniform",
    "rate_factor",
    "to_pairs",
    "training_diverged",
    "training_outcome",
]
