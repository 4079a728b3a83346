"""Train, infer, reconstruct and evaluate: once, for every backend (specs/training.md)."""

from ptycho_data.workflows.backend import Backend, CanvasTask, Model, TrainingTask
from ptycho_data.workflows.evaluate import compare_with_truth, evaluate_scan
from ptycho_data.workflows.infer import infer
from ptycho_data.workflows.reconstruct import reconstruct
from ptycho_data.workflows.train import MODEL_NAME, train

__all__ = [
    "MODEL_NAME",
    "Backend",
    "CanvasTask",
    "Model",
    "TrainingTask",
    "compare_with_truth",
    "evaluate_scan",
    "infer",
    "reconstruct",
    "train",
]
