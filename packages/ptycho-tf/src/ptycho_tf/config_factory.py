"""Payloads of this backend: one resolved configuration with the scan or model that it is for (specs/config.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ptycho_contracts.config import ExecutionConfig
from ptycho_data.workflows import payloads
from ptycho_data.workflows.payloads import InferencePayload, TrainingPayload

from ptycho_tf.bundle import Bundle, load_bundle

__all__ = [
    "ExecutionConfig",
    "InferencePayload",
    "TrainingPayload",
    "create_inference_payload",
    "create_training_payload",
]


def create_training_payload(
    train_data_file: str | Path | Sequence[str | Path],
    output_dir: str | Path,
    overrides: Mapping[str, Any] | None = None,
    execution_config: ExecutionConfig | None = None,
) -> TrainingPayload:
    """Read the training data and resolve all options; see :func:`ptycho_data.workflows.payloads.training_payload`."""
    return payloads.training_payload(train_data_file, output_dir, overrides, execution_config)


def create_inference_payload(
    model_path: str | Path,
    test_data_file: str | Path,
    output_dir: str | Path,
    overrides: Mapping[str, Any] | None = None,
    execution_config: ExecutionConfig | None = None,
) -> InferencePayload[Bundle]:
    """Open the model, read the scan and resolve all options; see :func:`ptycho_data.workflows.payloads.inference_payload`."""
    return payloads.inference_payload(
        model_path, test_data_file, output_dir, overrides, execution_config, load_bundle=load_bundle
    )
