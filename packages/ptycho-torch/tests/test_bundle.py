"""The bundle as a file (specs/bundle.md): whole, or one clear error; never executed."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import ptycho_torch
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ptycho_contracts.config import ExecutionConfig
from ptycho_contracts.problems import ContractError, MissingFileError, WorkFailedError
from ptycho_data import tensor_files
from ptycho_data.files import write_scan
from ptycho_torch.backend import create_inference_payload, infer
from ptycho_torch.bundle import Bundle, load_bundle, save_bundle
from ptycho_torch.model import PtychoModel
from safetensors import safe_open
from safetensors.torch import save_file

PREDICT = """
import sys
import numpy as np, torch
torch.set_num_threads(1)
from ptycho_contracts.config import ExecutionConfig
from ptycho_torch.backend import create_inference_payload, infer
found, _ = infer(create_inference_payload(*sys.argv[1:4], None, ExecutionConfig(accelerator="cpu")))
np.save(sys.argv[4], found.object)
assert "lightning" not in sys.modules, "inference imports no trainer"
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory, tiny_scan, make_model) -> tuple[Path, PtychoModel]:
    """A bundle of a stirred model with two modes."""
    path = tmp_path_factory.mktemp("bundle") / "model.safetensors"
    probe = np.concatenate([tiny_scan.probe, 0.1j * tiny_scan.probe[:, ::-1]])
    model = make_model(probe, gridsize=2, stir=0.02, width=2)
    save_bundle(path, Bundle(model, 1234.5, {"seed": 3, "versions": {"torch": "2"}}))
    return path, model


def parts(path: Path) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    """Header and tensors, to alter and write again."""
    with safe_open(path, framework="pt") as file:
        names = file.keys()
        return dict(file.metadata()), {name: file.get_tensor(name).clone() for name in names}


def checksum(header: dict[str, str], tensors: dict[str, torch.Tensor]) -> str:
    """BUN-6."""
    text = "".join(f"{key}\n{header.get(key, '')}\n" for key in ("config", "provenance"))
    parts = [text.encode()]
    for name, value in sorted(tensors.items()):
        parts += [
            f"{name}\n{'x'.join(str(size) for size in value.shape)}\n".encode(),
            value.reshape(-1).view(torch.uint8).numpy().tobytes(),
        ]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def rewritten(path: Path, folder: Path, *, header=None, tensors=None, drop=(), sign=True) -> Path:
    """A copy with other entries; ``sign`` gives it the checksum of what it now holds."""
    old_header, old_tensors = parts(path)
    new_header = {**old_header, **(header or {})}
    new_tensors = {name: value for name, value in {**old_tensors, **(tensors or {})}.items() if name not in drop}
    new_header = {name: value for name, value in new_header.items() if name not in drop}
    if sign:
        new_header["sha256"] = checksum(new_header, new_tensors)
    target = folder / "altered.safetensors"
    save_file(new_tensors, target, metadata=new_header)
    return target


def refused(path: Path) -> ContractError:
    """The one error of opening a bundle."""
    with pytest.raises(ContractError) as caught:
        load_bundle(path)
    assert caught.value.codes == ("bundle.broken",)
    assert str(path) in str(caught.value)
    return caught.value


def test_holds_all_that_prediction_needs(saved):
    """Invariant 43: weights and probe bit for bit, configuration, frozen normalisation, provenance."""
    path, model = saved
    state = torch.random.get_rng_state()
    bundle = load_bundle(path)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert bundle.model.config == model.config
    assert bundle.mean_counts == 1234.5
    assert bundle.provenance == {"seed": 3, "versions": {"torch": "2"}}
    assert not bundle.model.training
    loaded = bundle.model.state_dict()
    assert loaded.keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.equal(loaded[name], value), name
    assert all(weight.requires_grad for weight in bundle.model.parameters())


def test_a_rewritten_bundle_is_accepted_when_nothing_changed(saved, tmp_path):
    """The other tests' tool is no reason of theirs to fail."""
    assert load_bundle(rewritten(saved[0], tmp_path)).mean_counts == 1234.5


@pytest.mark.parametrize("architecture", ["unrolled", "cnn"])
def test_predicts_the_same_bits_in_a_new_process(architecture, scan, make_model, tmp_path):
    """Invariant 43: the file in a process that never trained, and the model in memory."""
    data, path, out = tmp_path / "scan.npz", tmp_path / "model.safetensors", tmp_path / "object.npy"
    write_scan(data, scan)
    model = make_model(scan.probe, architecture=architecture, gridsize=2, stir=0.02)
    save_bundle(path, Bundle(model, 1e5, {}))
    payload = create_inference_payload(path, data, tmp_path, None, ExecutionConfig(accelerator="cpu"))
    here, _ = infer(replace(payload, bundle=Bundle(model, 1e5, {})))
    words = [sys.executable, "-c", PREDICT, str(path), str(data), str(tmp_path), str(out)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.load(out), here.object)


def test_missing(tmp_path):
    """A missing bundle is no broken one."""
    with pytest.raises(MissingFileError, match="Model archive not found") as caught:
        load_bundle(tmp_path / "none.safetensors")
    assert str(tmp_path / "none.safetensors") in str(caught.value)


@given(fraction=st.floats(0, 1, exclude_max=True))
def test_truncated_at_any_byte(saved, tmp_path_factory, fraction):
    """Invariant 44."""
    content = saved[0].read_bytes()
    path = tmp_path_factory.mktemp("cut") / "cut.safetensors"
    path.write_bytes(content[: int(fraction * len(content))])
    refused(path)


@given(fraction=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255), early=st.booleans())
def test_any_altered_byte(saved, tmp_path_factory, fraction, flip, early):
    """Invariant 44: in the length, the header or the tensors; what still opens is what was written."""
    path, model = saved
    content = bytearray(path.read_bytes())
    room = 8 + int.from_bytes(content[:8], "little") if early else len(content)
    content[int(fraction * room)] ^= flip
    altered = path.parent / f"altered-{tmp_path_factory.mktemp('x').name}.safetensors"
    altered.write_bytes(content)
    try:
        bundle = load_bundle(altered)
    except ContractError:
        refused(altered)
    else:  # white space of the header
        assert bundle.provenance["seed"] == 3
        assert torch.equal(bundle.model.probe, model.probe)
        assert all(torch.equal(value, bundle.model.state_dict()[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04" + bytes(100), b"\x89HDF\r\n\x1a\n" + bytes(100), b"\xff" * 64])
def test_other_kinds_of_file(content, tmp_path):
    """Invariant 44."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    refused(path)


def test_a_pickle_is_not_executed(tmp_path):
    """Invariant 45: a file of torch.save, whose opening as a pickle would write a file."""
    trap = tmp_path / "trap"

    class Trap:
        def __reduce__(self):
            return (Path.touch, (trap,))

    path = tmp_path / "model.safetensors"
    torch.save({"weight": Trap()}, path)
    refused(path)
    assert not trap.exists()


def test_no_pickle_in_the_package():
    """Invariant 45: no module of the package names one."""
    source = Path(ptycho_torch.__file__).parent
    words = ("import pickle", "torch.load(", "torch.save(", "allow_pickle", "eval(compile", "joblib", "dill")
    assert list(source.glob("*.py"))
    result = [(file.name, word) for file in source.glob("*.py") for word in words if word in file.read_text()]
    assert result == []


def test_a_folder_is_refused(tmp_path):
    """Not every OSError is a missing file."""
    refused(tmp_path)


@pytest.mark.parametrize(
    "header",
    [
        {"format": "other"},
        {"schema": "3"},
        {"schema": "1.5"},
        {"config": "no JSON"},
        {"config": "[]"},
        {"config": "{}"},
        {"config": '{"data": {}}'},
        {"config": '{"model": {}}'},
        {"config": '{"data": 3, "model": 4}'},
        {"config": '{"data": {"N": 16, "unknown": 1}, "model": {}}'},
        {"config": '{"data": {"N": ' + "9" * 5000 + '}, "model": {}}'},
        {"config": '{"data": {"N": 1e400}, "model": {}}'},
        {"config": "[" * 100_000},
        {"provenance": "[" * 100_000},
        {"provenance": "3"},
    ],
    ids=lambda header: str(header)[:40],
)
def test_altered_settings(saved, tmp_path, header):
    """Invariant 44: also with a checksum to match."""
    refused(rewritten(saved[0], tmp_path, header=header))


@pytest.mark.parametrize("option", ["width", "iterations", "modes"])
@pytest.mark.parametrize("value", [3, 10**5, 10**9, 10**30])
def test_settings_of_another_model(saved, tmp_path, option, value):
    """Invariant 44; a forged width takes no memory."""
    config = json.loads(parts(saved[0])[0]["config"])
    config["model"][option] = value
    refused(rewritten(saved[0], tmp_path, header={"config": json.dumps(config)}))


@pytest.mark.parametrize("name", ["format", "schema", "config", "provenance", "sha256"])
def test_missing_entries(saved, tmp_path, name):
    """Invariant 44."""
    refused(rewritten(saved[0], tmp_path, drop=(name,), sign=False))


def test_each_missing_tensor(saved, tmp_path):
    """Invariant 44."""
    names = list(parts(saved[0])[1])
    assert len(names) > 10
    for name in names:
        refused(rewritten(saved[0], tmp_path, drop=(name,)))


@pytest.mark.parametrize(
    "change",
    [
        lambda t: {"extra": torch.zeros(2)},
        lambda t: {"network.extra": torch.zeros(2)},
        lambda t: {"nets.0.in_conv.bias": t["network.nets.0.in_conv.bias"].clone()},
        lambda t: {"network.nets.0.in_conv.bias": t["network.nets.0.in_conv.bias"][:-1].clone()},
        lambda t: {"network.nets.0.in_conv.bias": t["network.nets.0.in_conv.bias"].double()},
        lambda t: {"network.nets.0.in_conv.bias": t["network.nets.0.in_conv.bias"].int()},
        lambda t: {"network.nets.0.in_conv.bias": t["network.nets.0.in_conv.bias"] * torch.nan},
        lambda t: {"network.nets.0.in_conv.bias": t["network.nets.0.in_conv.bias"] + torch.inf},
        lambda t: {"probe": t["probe"][:1].clone()},
        lambda t: {"probe": t["probe"] * 0},
        lambda t: {"probe": t["probe"] * torch.nan},
        lambda t: {"probe": t["probe"].long()},
        lambda t: {"probe": t["probe"].half()},
        lambda t: {"probe": t["probe"].bfloat16()},
        lambda t: {"network.extra": t["probe"].to(torch.float8_e4m3fn)},
        lambda t: {"probe": t["probe"][..., 0].clone()},
        lambda t: {"mean_counts": t["mean_counts"] * 0},
        lambda t: {"mean_counts": -t["mean_counts"]},
        lambda t: {"mean_counts": t["mean_counts"] * torch.nan},
        lambda t: {"mean_counts": t["mean_counts"].repeat(2)},
    ],
)
def test_wrong_tensors(saved, tmp_path, change):
    """Invariant 44: additional, misshapen, of another dtype, NaN; also with a checksum to match."""
    refused(rewritten(saved[0], tmp_path, tensors=change(parts(saved[0])[1])))


def test_altered_tensors_do_not_pass(saved, tmp_path):
    """Invariant 44: finite values of the right shape, but not those that were trained."""
    tensors = parts(saved[0])[1]
    error = refused(rewritten(saved[0], tmp_path, tensors={"probe": tensors["probe"] * 1.01}, sign=False))
    assert "altered" in str(error)


def test_a_failed_write_keeps_the_old_file(saved, tmp_path, make_model, tiny_scan, monkeypatch):
    """A disk that is full in the middle leaves the old bundle and no rest."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(saved[0].read_bytes())

    def full(tensors, filename, metadata):
        Path(filename).write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(tensor_files, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        save_bundle(path, Bundle(make_model(tiny_scan.probe), 1.0, {}))
    assert path.read_bytes() == saved[0].read_bytes()
    assert list(tmp_path.iterdir()) == [path]


def test_weights_that_are_not_finite_are_not_written(tmp_path, make_model, tiny_scan):
    """Invariant 43: a diverged model is no result."""
    model = make_model(tiny_scan.probe)
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)
    with pytest.raises(WorkFailedError, match=r"bundle\.not_finite"):
        save_bundle(tmp_path / "model.safetensors", Bundle(model, 1.0, {}))
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_written_again_is_the_same(saved, tmp_path):
    """Nothing is added, lost or rounded on the way."""
    path = tmp_path / "again.safetensors"
    save_bundle(path, load_bundle(saved[0]))
    (header, tensors), (old_header, old_tensors) = parts(path), parts(saved[0])
    assert header == old_header
    assert tensors.keys() == old_tensors.keys()
    assert all(torch.equal(value, old_tensors[name]) for name, value in tensors.items())
