"""Bundles: exact, and refused when anything is wrong (specs/bundle.md)."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ptycho_contracts.problems import ContractError, MissingFileError, WorkFailedError
from ptycho_tf.bundle import Bundle, load_bundle, save_bundle
from safetensors import safe_open
from safetensors.numpy import save_file


@pytest.fixture(scope="module")
def saved(tmp_path_factory, scan):
    """A bundle and its model."""
    from ptycho_contracts.config import DataConfig, ModelConfig
    from ptycho_tf.layers import fresh
    from ptycho_tf.model import PtychoModel

    config = ModelConfig(data=DataConfig(N=scan.N), width=2, iterations=1, architecture="unrolled")
    model = PtychoModel(config, scan.probe, make=fresh(3, "float32"))
    path = tmp_path_factory.mktemp("bundle") / "model.safetensors"
    save_bundle(path, Bundle(model, 1234.5, {"seed": 3}))
    return path, model


def checksum(header, tensors) -> str:
    """BUN-6."""
    text = "".join(f"{key}\n{header.get(key, '')}\n" for key in ("config", "provenance"))
    parts = [text.encode()]
    for name, value in sorted(tensors.items()):
        parts += [f"{name}\n{'x'.join(str(size) for size in value.shape)}\n".encode(), value.tobytes()]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def rewritten(path, folder, *, header=None, tensors=None):
    """A copy with some entries changed (None removes one), with a new checksum."""
    with safe_open(path, framework="np") as file:
        held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        head = dict(file.metadata())
    held = {name: value for name, value in {**held, **(tensors or {})}.items() if value is not None}
    head = {name: value for name, value in {**head, **(header or {})}.items() if value is not None}
    head["sha256"] = checksum(head, held)
    target = folder / "altered.safetensors"
    save_file(held, target, metadata=head)
    return target


def test_holds_all_that_prediction_needs(saved):
    """Invariant 43: weights and probe bit for bit, configuration, frozen normalisation, provenance."""
    path, model = saved
    bundle = load_bundle(path)
    assert bundle.model.config == model.config
    assert (bundle.mean_counts, bundle.provenance) == (1234.5, {"seed": 3})
    np.testing.assert_array_equal(bundle.model.probe.numpy(), model.probe.numpy())
    assert bundle.model.weights.keys() == model.weights.keys()
    for name, value in model.weights.items():
        np.testing.assert_array_equal(bundle.model.weights[name].numpy(), value.numpy())


def test_a_rewritten_bundle_is_accepted_when_nothing_changed(saved, tmp_path):
    """The other tests' tool is no reason of theirs to fail."""
    assert load_bundle(rewritten(saved[0], tmp_path)).mean_counts == 1234.5


@given(fraction=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_truncated_or_altered_at_any_byte(saved, tmp_path_factory, fraction, flip):
    """Invariant 44."""
    content = bytearray(saved[0].read_bytes())
    place = int(fraction * len(content))
    path = tmp_path_factory.mktemp("cut") / "cut.safetensors"
    for bad in (content[:place], bytes([*content[:place], content[place] ^ flip, *content[place + 1 :]])):
        path.write_bytes(bad)
        with pytest.raises(ContractError) as caught:
            load_bundle(path)
        assert caught.value.codes == ("bundle.broken",)


@pytest.mark.parametrize(
    "change",
    [
        {"header": {"format": "other"}},
        {"header": {"schema": "3"}},
        {"header": {"config": None}},
        {"header": {"provenance": "[]"}},
        {"tensors": {"probe": None}},
        {"tensors": {"mean_counts": np.zeros(1)}},
        {"tensors": {"network.nets.0.up.bias": None}},
        {"tensors": {"network.nets.0.up.bias": np.zeros(3, np.float32)}},
        {"tensors": {"network.nets.0.up.bias": np.full(4, np.nan, np.float32)}},
        {"tensors": {"network.more": np.zeros(3, np.float32)}},
        {"tensors": {"weights": np.zeros(3, np.float32)}},
    ],
    ids=str,
)
def test_broken(saved, tmp_path, change):
    """BUN-7."""
    with pytest.raises(ContractError) as caught:
        load_bundle(rewritten(saved[0], tmp_path, **change))
    assert caught.value.codes == ("bundle.broken",)


def test_a_header_claims_no_memory(saved, tmp_path):
    """BUN-8: a width of a billion channels is refused before anything of that size is made."""
    with safe_open(saved[0], framework="np") as file:
        tables = json.loads(file.metadata()["config"])
    tables["model"]["width"] = 10**9
    with pytest.raises(ContractError) as caught:
        load_bundle(rewritten(saved[0], tmp_path, header={"config": json.dumps(tables)}))
    assert caught.value.codes == ("bundle.broken",)


def test_missing(tmp_path):
    """A missing bundle is no broken one."""
    with pytest.raises(MissingFileError, match="Model archive not found"):
        load_bundle(tmp_path / "none.safetensors")


def test_ruined_weights_are_not_written(make_model, tmp_path):
    """BUN-5, BUN-10: and what was there stays."""
    path = tmp_path / "model.safetensors"
    path.write_text("before")
    model = make_model()
    model.weights["network.nets.0.up.bias"].assign(np.full(4, np.inf))
    with pytest.raises(WorkFailedError):
        save_bundle(path, Bundle(model, 1.0, {}))
    assert path.read_text() == "before"
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.safetensors"]
