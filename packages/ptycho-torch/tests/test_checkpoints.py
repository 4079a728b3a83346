"""Checkpoints without pickles (specs/bundle.md CKP)."""

from __future__ import annotations

from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ptycho_contracts.problems import ContractError
from ptycho_torch.checkpoints import SafetensorsCheckpoints

FORMAT = SafetensorsCheckpoints()

leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False)
    | st.text(max_size=5)
    | st.builds(
        lambda shape, dtype: (torch.arange(torch.Size(shape).numel()).reshape(shape) * 1.5).to(dtype),
        st.lists(st.integers(0, 3), max_size=3),
        st.sampled_from([torch.float32, torch.float64, torch.int64, torch.bool, torch.complex64, torch.bfloat16]),
    )
)
keys = st.integers(0, 9) | st.sampled_from(["a", "b", "a/b", "1", "items", "tensor", "list"])
trees = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)


def same(one, other) -> bool:
    """Equal in type, structure and values."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


@given(tree=st.dictionaries(keys, trees, max_size=4))
def test_round_trip(tree, tmp_path_factory):
    """Any nesting, any key, complex tensors too; keys that look alike do not overwrite each other."""
    path = tmp_path_factory.mktemp("checkpoint") / "some.ckpt"
    FORMAT.save_checkpoint(tree, path)
    assert same(FORMAT.load_checkpoint(path), tree)


def test_lookalike_keys(tmp_path):
    """``a/b`` and b of a; 1 and "1"."""
    tree = {"a/b": torch.zeros(1), "a": {"b": torch.ones(1)}, 1: torch.tensor(2.0), "1": torch.tensor(3.0)}
    FORMAT.save_checkpoint(tree, tmp_path / "some.ckpt")
    assert same(FORMAT.load_checkpoint(tmp_path / "some.ckpt"), tree)


def test_shared_and_strided_and_conjugated_tensors(tmp_path):
    """What a training holds in memory is not always one block a tensor."""
    base = torch.arange(12.0).reshape(3, 4)
    tree = {"whole": base, "part": base[1:], "turned": base.T, "conj": torch.complex(base, base + 1).conj()}
    FORMAT.save_checkpoint(tree, tmp_path / "some.ckpt")
    result = FORMAT.load_checkpoint(tmp_path / "some.ckpt")
    assert torch.equal(result["turned"], base.T)
    assert torch.equal(result["conj"], torch.complex(base, -base - 1))


@pytest.mark.parametrize("value", [{1, 2}, object(), torch.float32, lambda: None])
def test_refuses_what_is_neither_tensor_nor_json(value, tmp_path):
    """The entry is named; the file that was there stays."""
    path = tmp_path / "some.ckpt"
    FORMAT.save_checkpoint({"epoch": 3}, path)
    with pytest.raises(TypeError, match="/state/1 is a"):
        FORMAT.save_checkpoint({"state": [0, value]}, path)
    assert FORMAT.load_checkpoint(path) == {"epoch": 3}
    assert list(tmp_path.iterdir()) == [path]


@given(fraction=st.floats(0, 1, exclude_max=True))
def test_truncated_at_any_byte(fraction, tmp_path_factory):
    """Invariant 44."""
    path = tmp_path_factory.mktemp("checkpoint") / "some.ckpt"
    FORMAT.save_checkpoint({"state": {"weight": torch.arange(5.0)}, "epoch": 1}, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(fraction * len(content))])
    with pytest.raises(ContractError) as caught:
        FORMAT.load_checkpoint(path)
    assert caught.value.codes == ("checkpoint.broken",)


def test_a_pickled_checkpoint_is_not_executed(tmp_path):
    """Invariant 45."""
    trap, path = tmp_path / "trap", tmp_path / "some.ckpt"

    class Trap:
        def __reduce__(self):
            return (Path.touch, (trap,))

    torch.save({"state_dict": Trap()}, path)
    with pytest.raises(ContractError):
        FORMAT.load_checkpoint(path)
    assert not trap.exists()


def test_remove(tmp_path):
    """Twice is fine."""
    FORMAT.save_checkpoint({}, tmp_path / "some.ckpt")
    FORMAT.remove_checkpoint(tmp_path / "some.ckpt")
    FORMAT.remove_checkpoint(tmp_path / "some.ckpt")
    assert list(tmp_path.iterdir()) == []


class Line(pl.LightningModule):
    """A straight line through fixed points; every step depends on the optimiser's memory."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.line = torch.nn.Linear(1, 1)

    def training_step(self, batch, _):
        (x,) = batch
        return (self.line(x) - 2 * x).square().mean()

    def configure_optimizers(self):
        optimiser = torch.optim.Adam(self.parameters(), lr=0.1)
        return [optimiser], [torch.optim.lr_scheduler.ExponentialLR(optimiser, 0.9)]


@pytest.mark.filterwarnings("ignore")  # Lightning's remarks on workers, loggers and its own deprecations
def test_lightning_resumes_from_one(tmp_path):
    """Two epochs, then two more from the checkpoint, are four epochs, bit for bit."""
    points = torch.utils.data.TensorDataset(torch.linspace(-1, 1, 8)[:, None])
    quiet = {
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "plugins": [SafetensorsCheckpoints()],
        "default_root_dir": tmp_path,
        "enable_checkpointing": False,
    }

    def trained(epochs, resume=None):
        with torch.random.fork_rng(devices=[]):
            module = Line()
        trainer = pl.Trainer(max_epochs=epochs, **quiet)
        trainer.fit(module, torch.utils.data.DataLoader(points, batch_size=4), ckpt_path=resume)
        return trainer, module

    first, _ = trained(2)
    first.save_checkpoint(tmp_path / "two.ckpt")
    resumed, module = trained(4, tmp_path / "two.ckpt")
    _, straight = trained(4)
    assert resumed.global_step == 8
    assert torch.equal(module.line.weight, straight.line.weight)
