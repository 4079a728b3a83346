"""Payloads of this backend: one resolved configuration with the scan or model that it is for (specs/config.md)."""

from __future__ import annotations

from functools import partial

from ptycho_contracts.config import ExecutionConfig
from ptycho_data.workflows.payloads import InferencePayload, TrainingPayload, inference_payload, training_payload

from ptycho_tf.bundle import load_bundle

__all__ = [
    "ExecutionConfig",
    "InferencePayload",
    "TrainingPayload",
    "create_inference_payload",
    "create_training_payload",
]

create_training_payload = training_payload
create_inference_payload = partial(inference_payload, load_bundle=load_bundle)
