"""Checkpoints of a training: whose they are, broken ones, spacing, the probe (CKP-7 to CKP-9)."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ptycho_contracts.config import DataConfig, ExecutionConfig, ModelConfig, TrainingConfig
from ptycho_contracts.problems import ContractError, MissingFileError
from ptycho_data.fitting import training_checkpoints as module
from ptycho_data.fitting.checkpoints import SPACING_FACTOR, SPACING_SECONDS
from ptycho_data.fitting.training_checkpoints import TrainingCheckpoints, training_checkpoints
from safetensors import safe_open
from safetensors.numpy import save_file

FACTS = {"backend": "torch", "settings": {"seed": 0, "rates": [1.5, None]}, "used": "9f"}
PROBE = (np.arange(18).reshape(2, 3, 3) * (1 - 0.5j)).astype(np.complex64)
RESULTS = {"calibrated": True, "calibration": {"patterns": 9, "judged": None}}
ARRAYS = {
    "weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "optimiser.0": np.array(7, np.int64),
    "empty": np.zeros((0, 2), np.float64),
    "flag": np.array([True, False]),
}
CONTENT = {"attempts": {"seconds": 1.25, "reason": None}, "kept": [[0.5, 3, "epoch=3"]], "best": float("inf")}


def written(path, **options) -> TrainingCheckpoints:
    kept = TrainingCheckpoints(path, FACTS, **options)
    kept.probe(lambda: (PROBE, RESULTS))
    kept.write(3, ARRAYS, CONTENT)
    return kept


def never():
    raise AssertionError("the probe of the file is made again")


def test_what_is_resumed_is_what_was_written(tmp_path):
    """Names, dtypes, shapes, values; and the probe that was trained with, which is not made again."""
    assert str(TrainingCheckpoints(tmp_path / "new", FACTS)) == "nothing was kept"
    kept = written(tmp_path / "some")
    again = TrainingCheckpoints(tmp_path / "some", FACTS, resume=True)
    for one in (kept, again):
        assert str(one) == f"the state after epoch 3 is {tmp_path / 'some'}: `resume` continues from there"
    assert again.state.epochs == 3
    assert again.state.content == CONTENT
    assert set(again.state.arrays) == set(ARRAYS)
    for name, value in ARRAYS.items():
        assert again.state.arrays[name].dtype == value.dtype
        np.testing.assert_array_equal(again.state.arrays[name], value, strict=True)
    probe, results = again.probe(never)
    np.testing.assert_array_equal(probe, PROBE, strict=True)
    assert results == RESULTS
    assert [path.name for path in tmp_path.iterdir()] == ["some"]


def test_another_run_is_refused_with_every_difference(tmp_path):
    """CKP-8."""
    written(tmp_path / "some")
    before = (tmp_path / "some").read_bytes()
    other = {"backend": "tf", "settings": {"seed": 1, "rates": [1.5, None]}, "used": "9f"}
    with pytest.raises(ContractError) as caught:
        TrainingCheckpoints(tmp_path / "some", other, resume=True)
    assert caught.value.codes == ("checkpoint.other", "checkpoint.other")
    assert "settings.seed: expected 1, as this run has it, found 0" in str(caught.value)
    assert (tmp_path / "some").read_bytes() == before


def test_missing(tmp_path):
    with pytest.raises(MissingFileError) as caught:
        TrainingCheckpoints(tmp_path / "none", FACTS, resume=True)
    assert caught.value.codes == ("checkpoint.missing",)


@pytest.fixture(scope="module")
def content(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "some"
    written(path)
    return path.read_bytes()


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), cut=st.booleans())
def test_altered_or_cut_anywhere_is_refused(place, bit, cut, content, tmp_path_factory):
    """Invariant 44: one error, or, where JSON has two spellings of the same, the same state."""
    path, at = tmp_path_factory.mktemp("broken") / "some", int(place * len(content))
    path.write_bytes(content[:at] if cut else content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :])
    codes, again = (), None
    try:
        again = TrainingCheckpoints(path, FACTS, resume=True)
    except ContractError as error:
        codes = error.codes
    assert codes == (("checkpoint.broken",) if again is None else ())
    if again is not None:
        assert not cut
        assert again.state.content == CONTENT
        for name, value in ARRAYS.items():
            np.testing.assert_array_equal(again.state.arrays[name], value, strict=True)


@pytest.mark.parametrize(
    "change", [{"format": "ptycho-joint-fit"}, {"schema": "2"}, {"state": "{"}, {"state": json.dumps({"epochs": 4})}]
)
def test_another_format_is_refused(change, tmp_path):
    written(tmp_path / "some")
    with safe_open(tmp_path / "some", framework="np") as file:
        header, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors, tmp_path / "other", metadata=header | change)
    with pytest.raises(ContractError) as caught:
        TrainingCheckpoints(tmp_path / "other", FACTS, resume=True)
    assert caught.value.codes == ("checkpoint.broken",)


def test_spacing(tmp_path, monkeypatch):
    """CKP-4: the first at once, the next ones 2 s apart, or 20 times what the last one took."""
    now, took = 100.0, 0.5

    def slow(*_, **__):
        nonlocal now
        now += took

    monkeypatch.setattr(module, "write_tensors", slow)
    kept = TrainingCheckpoints(tmp_path / "some", FACTS, clock=lambda: now)
    kept.probe(lambda: (PROBE, RESULTS))
    assert kept.due()
    for took in (0.5, 0.01):
        kept.write(3, ARRAYS, CONTENT)
        now += max(SPACING_SECONDS, SPACING_FACTOR * took) - 0.01
        assert not kept.due()
        now += 0.02
        assert kept.due()


def test_facts_are_the_options_that_change_a_bit(tmp_path):
    """Neither paths, nor workers, loggers and the number of files that are kept."""

    def opened(resume=False, **execution):
        data = DataConfig(n_groups=4, N=16)
        sections = (data, ModelConfig(data=data), TrainingConfig(start_from="m", hold_out="x.npy"))
        kept = training_checkpoints(
            tmp_path / "some",
            resume=resume,
            enabled=True,
            settings=(*sections, ExecutionConfig(**execution)),
            facts=lambda: {"backend": "torch"},
        )
        kept.probe(lambda: (PROBE, RESULTS))
        return kept

    opened().write(0, ARRAYS, CONTENT)
    same = {"num_workers": 2, "prefetch_factor": 4, "logger_backend": "none", "checkpoint_save_top_k": 3}
    assert opened(resume=True, **same, enable_progress_bar=False, accelerator="cpu").state.epochs == 0
    for other in ({"learning_rate": 0.5}, {"precision": "64-true"}, {"accum_steps": 2}, {"early_stop_patience": 3}):
        with pytest.raises(ContractError) as caught:
            opened(resume=True, **other)
        assert caught.value.codes == ("checkpoint.other",)


@pytest.mark.parametrize(("path", "enabled"), [(None, True), ("some", False)])
def test_a_run_that_keeps_none_cannot_resume(path, enabled, tmp_path):
    options = {"path": path and tmp_path / path, "enabled": enabled, "settings": (), "facts": never}
    assert training_checkpoints(**options, resume=False) is None
    with pytest.raises(ContractError) as caught:
        training_checkpoints(**options, resume=True)
    assert caught.value.codes == ("checkpoint.disabled",)
