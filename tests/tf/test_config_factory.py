"""The factory's payloads in TensorFlow (specs/config.md); what both backends must do is in ``factory_behaviour``."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
from factory_behaviour import (
    MODEL,
    InferencePayloadStructure,
    InferredFromTheFile,
    LegacyDictionary,
    Precedence,
    TrainingPayloadStructure,
    Validation,
)
from ptycho_data.files import read_scan
from ptycho_tf import config_factory
from ptycho_tf.bundle import Bundle, save_bundle
from ptycho_tf.layers import fresh
from ptycho_tf.model import PtychoModel


@pytest.fixture(scope="module")
def factory() -> ModuleType:
    """The factory under test."""
    return config_factory


@pytest.fixture(scope="module")
def model_file(scan_file, tmp_path_factory) -> Path:
    """A bundle of an untrained model: gridsize 3, 11 neighbours."""
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_bundle(path, Bundle(PtychoModel(MODEL, read_scan(scan_file).probe, make=fresh(0, "float32")), 1e6, {}))
    return path


class TestTrainingPayloadStructure(TrainingPayloadStructure):
    """What a training payload is made of."""


class TestInferredFromTheFile(InferredFromTheFile):
    """What the file declares."""


class TestPrecedence(Precedence):
    """Invariant 35: explicit > execution > file > defaults."""


class TestValidation(Validation):
    """Bad input is named, with its remedy, before the work starts."""


class TestInferencePayload(InferencePayloadStructure):
    """What an inference payload is made of."""


class TestLegacyDictionary(LegacyDictionary):
    """A caller's flat dictionary, filled from a payload."""
