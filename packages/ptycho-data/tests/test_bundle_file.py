"""The bundle's file without a network (specs/bundle.md BUN)."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ptycho_contracts.config import DataConfig, ModelConfig
from ptycho_contracts.problems import ContractError, MissingFileError, WorkFailedError
from ptycho_data import tensor_files
from ptycho_data.bundle_file import BundleFile, read_bundle, require_same_network, write_bundle
from ptycho_data.simulate import PROBES
from safetensors import safe_open
from safetensors.numpy import save_file

CONFIG = ModelConfig(data=DataConfig(N=16, gridsize=2), modes=1, architecture="unrolled", iterations=2, width=4)
WEIGHTS = {
    "network.b": np.arange(6, dtype=np.float32).reshape(2, 3).T,  # not contiguous
    "network.a": np.float32(0.5) * np.ones((), np.float32),  # a scalar stays one
}
CONTENT = BundleFile(CONFIG, WEIGHTS, PROBES["defocused_disc"](16), 1234.5, {"seed": 3, "name": "µ"})


def held(path) -> tuple[dict, dict]:
    """Header and tensors of a file."""
    with safe_open(path, "np") as file:
        return file.metadata(), {name: file.get_tensor(name).copy() for name in file.keys()}  # noqa: SIM118


@pytest.fixture
def path(tmp_path) -> Path:
    """A bundle, written."""
    write_bundle(tmp_path / "model.safetensors", CONTENT)
    return tmp_path / "model.safetensors"


def test_what_is_written_is_read(path):
    """Invariant 43: bit for bit, shapes of scalars too."""
    result = read_bundle(path)
    assert result.config == CONFIG
    assert (result.mean_counts, result.provenance) == (1234.5, CONTENT.provenance)
    np.testing.assert_array_equal(result.probe, CONTENT.probe)
    assert result.probe.dtype == np.complex64
    assert result.weights.keys() == WEIGHTS.keys()
    for name, value in WEIGHTS.items():
        assert result.weights[name].shape == value.shape
        np.testing.assert_array_equal(result.weights[name], value)


@given(mean_counts=st.floats(1e-3, 1e15))
def test_mean_counts_keep_float64(tmp_path_factory, mean_counts):
    """Invariant 43, BUN-2: 2**53 + 2 photons and a third of one come back bit for bit."""
    file = tmp_path_factory.mktemp("counts") / "model.safetensors"
    for value in (mean_counts, 1 / 3, 2.0**53 + 2):
        write_bundle(file, replace(CONTENT, mean_counts=value))
        assert read_bundle(file).mean_counts == value


def test_layout(path):
    """BUN-2, BUN-3, BUN-6, by plain NumPy and hashlib."""
    header, tensors = held(path)
    assert set(header) == {"format", "schema", "config", "provenance", "sha256"}
    assert (header["format"], header["schema"]) == ("ptycho-bundle", "2")
    assert json.loads(header["config"])["model"]["width"] == 4
    assert tensors["probe"].shape == (1, 16, 16, 2)
    np.testing.assert_array_equal(tensors["probe"][..., 1], CONTENT.probe.imag)
    assert tensors["mean_counts"].dtype == np.float64
    digest = hashlib.sha256(f"config\n{header['config']}\nprovenance\n{header['provenance']}\n".encode())
    for name, shape in (("mean_counts", "1"), ("network.a", ""), ("network.b", "3x2"), ("probe", "1x16x16x2")):
        digest.update(f"{name}\n{shape}\n".encode() + tensors[name].tobytes())
    assert header["sha256"] == digest.hexdigest()
    assert path.stat().st_mode & 0o777 == 0o644


def test_layers_of_schema_1_have_their_present_names(path):
    """BUN-3: ``enter`` and ``leave`` became ``in_conv`` and ``out_conv``, ``sweeps`` became ``passes``."""
    old = {"network.nets.0.enter.weight": "in_conv", "network.nets.0.leave.bias": "out_conv"}
    weights = dict.fromkeys(old, np.ones(2, np.float32))
    write_bundle(path, replace(CONTENT, weights=weights))
    header, tensors = held(path)
    header |= {"schema": "1", "config": header["config"].replace('"passes"', '"sweeps"')}
    header["sha256"] = tensor_files.tensor_digest(header, tensors, ("config", "provenance"))
    save_file(tensors, path, metadata=header)
    result = read_bundle(path)
    assert set(result.weights) == {"network.nets.0.in_conv.weight", "network.nets.0.out_conv.bias"}
    assert result.config == CONFIG


@pytest.mark.parametrize("what", ["config", "provenance", "network.a", "probe", "mean_counts"])
def test_altered(path, what):
    """Invariant 44: each part is under the checksum."""
    header, tensors = held(path)
    if what in header:
        header[what] = header[what].replace("3", "4", 1) if what == "provenance" else header[what] + " "
    else:
        tensors[what] = np.asarray(tensors[what] * tensors[what].dtype.type(1.5))
    save_file(tensors, path, metadata=header)
    with pytest.raises(ContractError, match="altered") as caught:
        read_bundle(path)
    assert caught.value.codes == ("bundle.broken",)


def test_unreadable(path):
    """BUN-7: what the library or the system refuses is one error, with its text."""
    path.write_bytes(b"half")
    with pytest.raises(ContractError, match=r"a whole \.safetensors file") as caught:
        read_bundle(path)
    assert caught.value.codes == ("bundle.broken",)
    with pytest.raises(MissingFileError, match="Model archive not found"):
        read_bundle(path.with_name("none"))


def test_another_kind_of_file(path):
    """BUN-7: a scan instead of a model is reported as a scan."""
    np.savez(path.with_suffix(".npz"), counts=np.zeros(3))
    with pytest.raises(ContractError, match="a file of another kind; check the path") as caught:
        read_bundle(path.with_suffix(".npz"))
    assert caught.value.codes == ("bundle.broken",)


@pytest.mark.parametrize("name", ["network.a", "network.b"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_ruined_weights_are_not_written(tmp_path, name, value):
    """BUN-5: and they are named."""
    ruined = replace(CONTENT, weights={**WEIGHTS, name: np.full((2,), value, np.float32)})
    with pytest.raises(WorkFailedError, match=name.replace(".", r"\.")):
        write_bundle(tmp_path / "model", ruined)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_keeps_the_old_file(path, monkeypatch):
    """BUN-10."""
    before = path.read_bytes()

    def full(tensors, filename, metadata):
        Path(filename).write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(tensor_files, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        write_bundle(path, CONTENT)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_the_same_network():
    """TRN-12: every option that differs; the gridsize matters to ``cnn`` alone; passes and modes have no weights."""
    four = replace(CONFIG, data=replace(CONFIG.data, gridsize=1))
    require_same_network(Path("m"), CONFIG, CONFIG)
    require_same_network(Path("m"), CONFIG, four)
    require_same_network(Path("m"), CONFIG, replace(CONFIG, passes=CONFIG.passes + 3, modes=CONFIG.modes + 1))
    with pytest.raises(ContractError) as caught:
        require_same_network(Path("m"), CONFIG, replace(CONFIG, width=8, iterations=3))
    assert caught.value.codes == ("bundle.other_network",) * 2
    cnn = [replace(config, architecture="cnn") for config in (CONFIG, four)]
    with pytest.raises(ContractError, match="gridsize") as caught:
        require_same_network(Path("m"), *cnn)
    assert caught.value.codes == ("bundle.other_network",)
