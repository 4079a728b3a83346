"""The legacy dictionary (CFG-17 to CFG-21)."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ptycho_contracts.config import (
    SECTIONS,
    DataConfig,
    ExecutionConfig,
    InferenceConfig,
    ModelConfig,
    ReconstructionConfig,
    TrainingConfig,
    resolve,
    schema,
)
from ptycho_contracts.legacy import update_legacy_dict
from ptycho_contracts.problems import ContractError

TRAINING = (DataConfig, ModelConfig, TrainingConfig, ExecutionConfig)


def filled(config, **kwargs) -> dict:
    cfg: dict = {}
    update_legacy_dict(cfg, config, **kwargs)
    return cfg


def test_literal_names_and_meanings():
    data = DataConfig(N=128, gridsize=3, n_groups=512, nphotons=1e6)
    training = TrainingConfig(batch_size=4, epochs=7, calibrate_probe=False)
    cfg = filled(
        [data, ModelConfig(data=data), training],
        output_dir=Path("out"),
        train_data_file="train.npz",
        test_data_file=Path("test.npz"),
    )
    expected = {
        "N": 128,
        "gridsize": 3,
        "n_groups": 512,
        "nphotons": 1e6,
        "batch_size": 4,
        "epochs": 7,
        "nepochs": 7,
        "model_type": "pinn",
        "object.big": True,
        "probe.big": True,
        "probe.mask": False,
        "probe.trainable": False,
        "intensity_scale.trainable": False,
        "positions.provided": True,
        "output_prefix": "out",
        "train_data_file_path": "train.npz",
        "test_data_file_path": "test.npz",
    }
    assert {key: cfg.get(key) for key in expected} == expected
    assert not any(isinstance(value, Path) for value in cfg.values())


@pytest.mark.parametrize(("calibrate", "trainable"), [(None, True), (True, True), (False, False)])
def test_a_kept_probe_is_not_trainable(calibrate, trainable):
    assert filled(TrainingConfig(calibrate_probe=calibrate))["probe.trainable"] is trainable


def test_every_option_enters_under_its_own_name():
    made = resolve(TRAINING, {"explicit": {"n_groups": 9}})
    cfg = filled(made)
    for section in TRAINING[:-1]:
        for row in schema(section):
            assert cfg.get(row.name) == getattr(made[section], row.name)


@given(gridsize=st.integers(1, 8), how=st.sampled_from(["resolved", "mapping", "iterator", "list", "model"]))
def test_any_way_to_pass_sections_is_the_same(gridsize, how):
    made = resolve([DataConfig, ModelConfig], {"explicit": {"gridsize": gridsize}})
    config = {
        "resolved": made,
        "mapping": made.sections,
        "iterator": iter(made.sections.values()),
        "list": list(made.sections.values()),
        "model": made[ModelConfig],
    }[how]
    cfg = filled(config)
    assert cfg == filled([made[ModelConfig], made[DataConfig]])
    assert cfg["gridsize"] == gridsize


@pytest.mark.parametrize("config", [ExecutionConfig(devices=3), [ExecutionConfig()], {"execution": ExecutionConfig()}])
def test_the_execution_configuration_never_enters(config):
    assert filled(config) == {}
    assert not {row.name for row in schema(ExecutionConfig)} & set(filled(resolve(TRAINING, {})))


def test_foreign_entries_stay_and_none_leaves_an_entry():
    cfg = {"n_groups": 77, "mine": [1], "gridsize": 9, "output_prefix": "before"}
    same = cfg
    assert update_legacy_dict(cfg, DataConfig(gridsize=2)) is None
    assert same is cfg
    assert (cfg["n_groups"], cfg["mine"], cfg["gridsize"], cfg["output_prefix"]) == (77, [1], 2, "before")


def test_training_and_refinement_each_have_a_validation_fraction():
    cfg = filled([TrainingConfig(val_fraction=0.2), InferenceConfig(refine=1, val_fraction=0.1)])
    assert (cfg["val_fraction"], cfg["refine_val_fraction"]) == (0.2, 0.1)


def test_contradicting_sections_leave_the_dictionary_untouched():
    cfg = {"seed": 5}
    with pytest.raises(ContractError) as caught:
        update_legacy_dict(cfg, [TrainingConfig(seed=1), InferenceConfig(seed=2)], output_dir="out")
    assert str(caught.value) == (
        "seed: expected one value, found 1 in 'training' and 2 in 'inference'; give one of these sections "
        "[legacy.conflict]"
    )
    assert cfg == {"seed": 5}
    with pytest.raises(ContractError, match=r"gridsize: .* \| .*modes"):
        update_legacy_dict(cfg, [DataConfig(gridsize=3), ModelConfig(), ReconstructionConfig(modes=2)])


@pytest.mark.parametrize("config", [{"N": 64}, 3, "data", [DataConfig], None])
def test_what_is_no_section_raises(config):
    with pytest.raises(ContractError, match=r"legacy\.type"):
        filled(config)


def test_each_section_alone_is_accepted():
    for section in SECTIONS:
        filled(section())
