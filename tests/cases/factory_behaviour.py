"""The factory's payloads of either backend: structure, inference from the file, precedence and validation
(specs/config.md). The fixture ``factory`` is a backend's module ``config_factory``.
"""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ptycho_contracts.config import (
    DataConfig,
    ExecutionConfig,
    InferenceConfig,
    ModelConfig,
    TrainingConfig,
    schema,
    to_dict,
)
from ptycho_contracts.legacy import update_legacy_dict
from ptycho_contracts.problems import ContractError, MissingFileError
from ptycho_data.files import read_scan, write_scan
from ptycho_data.workflows.payloads import InferencePayload, TrainingPayload

N_GROUPS = {"n_groups": 16}
WITHOUT_EFFECT = ("prefetch_factor", "inference_batch_size")
"""Execution options that a training does not read, or not alone."""
MODEL = ModelConfig(data=DataConfig(N=32, gridsize=3, neighbor_count=11, nphotons=77.0), width=2, iterations=1)
"""Of the untrained model that a backend's ``model_file`` holds."""


class Payloads:
    """Makes payloads; ``factory`` and ``model_file`` are the backend's."""

    @pytest.fixture
    def training(self, factory, scan_file, tmp_path):
        """Make a training payload for the small scan."""

        def make(overrides=None, execution=None, data=scan_file, **more) -> TrainingPayload:
            given = {**N_GROUPS, **(overrides or {}), **more}
            return factory.create_training_payload(data, tmp_path / "out", given, execution)

        return make

    @pytest.fixture
    def inference(self, factory, scan_file, model_file, tmp_path):
        """Make an inference payload for the small scan."""

        def make(overrides=None, execution=None, data=scan_file, model=model_file) -> InferencePayload:
            return factory.create_inference_payload(model, data, tmp_path / "out", overrides, execution)

        return make


class TrainingPayloadStructure(Payloads):
    """What a training payload is made of."""

    @pytest.mark.parametrize("gridsize", [1, 2, 3])
    def test_gridsize_sets_channel_count(self, training, gridsize):
        """Invariant 29: one number decides all channel counts."""
        payload = training(gridsize=gridsize)
        assert payload.pt_data_config.gridsize == payload.pt_model_config.gridsize == gridsize
        assert (
            payload.pt_data_config.C
            == payload.pt_model_config.C_forward
            == payload.pt_model_config.C_model
            == gridsize**2
        )
        assert payload.pt_model_config.data is payload.pt_data_config

    @pytest.mark.parametrize("name", ["C", "C_forward", "C_model", "K"])
    def test_channel_counts_are_no_options(self, training, name):
        """Invariant 29: no second number can be given, so none can disagree."""
        with pytest.raises(ContractError, match=rf"explicit\.{name}"):
            training({name: 4})

    def test_sections(self, training, scan_file, tmp_path):
        payload = training(epochs=7)
        assert isinstance(payload.pt_data_config, DataConfig)
        assert isinstance(payload.pt_model_config, ModelConfig)
        assert isinstance(payload.pt_training_config, TrainingConfig)
        assert isinstance(payload.execution_config, ExecutionConfig)
        assert payload.pt_training_config.epochs == 7
        assert payload.output_dir == tmp_path / "out"
        assert not payload.output_dir.exists()
        np.testing.assert_array_equal(payload.scan.counts(), read_scan(scan_file).counts())

    def test_is_frozen(self, training):
        """Invariant 31: no configuration changes another."""
        payload = training()
        with pytest.raises(FrozenInstanceError):
            payload.output_dir = Path()
        with pytest.raises(FrozenInstanceError):
            payload.pt_data_config.gridsize = 1

    def test_defaults(self, training):
        """Invariant 34: what is not set is the schema's default."""
        payload = training()
        for section in (payload.pt_training_config, payload.execution_config):
            assert section == type(section)()
        assert replace(payload.pt_data_config, N=64, n_groups=None, nphotons=1e5) == DataConfig()

    def test_paths_may_be_texts(self, factory, scan_file, tmp_path):
        payload = factory.create_training_payload(str(scan_file), str(tmp_path / "out"), N_GROUPS)
        assert payload.output_dir == tmp_path / "out"

    def test_several_files_make_one_scan(self, training, scan_file, other_scan_file):
        payload = training(data=[scan_file, str(other_scan_file)])
        assert len(payload.scan) == 128
        assert np.unique(payload.scan.scan_index).tolist() == [0, 1]

    def test_two_payloads_do_not_meet(self, training):
        """Invariant 31: made one inside the other, each has its own options."""
        first = training(gridsize=1, learning_rate=0.5)
        second = training(gridsize=3)
        assert (first.pt_data_config.C, second.pt_data_config.C) == (1, 9)
        assert (first.execution_config.learning_rate, second.execution_config.learning_rate) == (0.5, 1e-3)


class InferredFromTheFile(Payloads):
    """What the file declares."""

    def test_N_is_the_probe_s(self, training, scan_file):
        payload = training()
        assert payload.pt_data_config.N == read_scan(scan_file).probe.shape[-1] == 32
        assert payload.overrides_applied["N"] == {"value": 32, "source": "file"}

    def test_explicit_N_wins_and_is_held_against_the_data(self, training):
        """It is not replaced by the file's in silence: what does not fit is refused, naming both."""
        assert training(N=32).overrides_applied["N"] == {"value": 32, "source": "explicit"}
        with pytest.raises(ContractError, match=r"64 x 64.*32 x 32"):
            training(N=64)

    def test_nphotons_from_the_file(self, training, scan_file):
        """Invariant 9: the measured dose, which a label cannot contradict."""
        scan = read_scan(scan_file)
        payload = training()
        measured = float(scan.counts().sum((1, 2), dtype=np.float64).mean())
        assert payload.pt_data_config.nphotons == pytest.approx(measured, rel=1e-6)
        assert payload.overrides_applied["nphotons"]["source"] == "file"

    def test_nphotons_of_normalised_amplitude(self, training, scan_file, tmp_path):
        """The value of the file, unless an explicit one is given; the patterns then have that dose."""
        scan = read_scan(scan_file)
        amplitude = np.sqrt(scan.counts())
        x, y = scan.positions_px.T
        arrays = {"diff3d": amplitude / amplitude.max(), "xcoords": x, "ycoords": y, "probeGuess": scan.probe}
        np.savez(tmp_path / "declared.npz", **arrays, measurement="normalised-amplitude", nphotons=4321.0)
        for given_value, dose in ((None, 4321.0), (500.0, 500.0)):
            payload = training({} if given_value is None else {"nphotons": given_value}, data=tmp_path / "declared.npz")
            assert payload.pt_data_config.nphotons == pytest.approx(dose, rel=1e-4)
            assert payload.scan.counts().sum((1, 2)).mean() == pytest.approx(dose, rel=1e-4)


class Precedence(Payloads):
    """Invariant 35: explicit > execution > file > defaults."""

    def test_explicit_beats_execution(self, training):
        execution = ExecutionConfig(learning_rate=0.1, scheduler="constant")
        payload = training(execution=execution, learning_rate=0.2)
        assert payload.execution_config.learning_rate == 0.2
        assert payload.execution_config.scheduler == "constant"
        assert payload.overrides_applied["learning_rate"] == {"value": 0.2, "source": "explicit"}
        assert payload.overrides_applied["scheduler"] == {"value": "constant", "source": "execution"}
        assert execution.learning_rate == 0.1

    @settings(max_examples=25)
    @given(data=st.data())
    def test_every_execution_option(self, factory, scan_file, tmp_path_factory, data):
        """For any field: the explicit value, else the execution configuration's, else the default."""
        row = data.draw(st.sampled_from([row for row in schema(ExecutionConfig) if row.name not in WITHOUT_EFFECT]))
        values = st.sampled_from(other_values(row))
        in_execution, explicit = data.draw(st.none() | values), data.draw(st.none() | values)
        execution = None if in_execution is None else ExecutionConfig(**{row.name: in_execution})
        overrides = N_GROUPS if explicit is None else {**N_GROUPS, row.name: explicit}
        payload = factory.create_training_payload(scan_file, "unused", overrides, execution)
        result = getattr(payload.execution_config, row.name)
        assert result == (
            explicit if explicit is not None else in_execution if in_execution is not None else row.default
        )

    @pytest.mark.parametrize(
        ("section", "attribute"),
        [(DataConfig, "pt_data_config"), (ModelConfig, "pt_model_config"), (TrainingConfig, "pt_training_config")],
    )
    def test_every_explicit_option_arrives(self, training, section, attribute):
        """No option is dropped between the call and its section."""
        for row in schema(section):
            if row.name in ("N", "measurement", "nphotons", "gridsize", "neighbor_count", "oversampling"):
                continue  # bound to this file or to each other; tested above and below
            helpers = {"calibrate_probe": True} if row.name == "calibration_epochs" else {}
            for value in other_values(row):
                payload = training({row.name: value, **helpers})
                assert getattr(getattr(payload, attribute), row.name) == value
                assert payload.overrides_applied[row.name] == {"value": value, "source": "explicit"}

    def test_oversampling_stands_for_n_groups(self, factory, scan_file, tmp_path, training):
        payload = factory.create_training_payload(scan_file, tmp_path, {"oversampling": 3})
        assert payload.pt_data_config.oversampling == 3
        assert payload.pt_data_config.n_groups is None
        with pytest.raises(ContractError, match=r"config\.group_count"):
            training(oversampling=3)

    def test_neighbours(self, training):
        payload = training(gridsize=2, neighbor_count=3)
        assert payload.pt_data_config.K == 3
        assert training(gridsize=2).pt_data_config.K == 6

    def test_none_where_none_is_legal(self, training):
        execution = ExecutionConfig(gradient_clip_val=1.0)
        assert training({"gradient_clip_val": None}, execution).execution_config.gradient_clip_val is None


class Validation(Payloads):
    """Bad input is named, with its remedy, before the work starts."""

    def test_n_groups_is_required(self, factory, scan_file, tmp_path):
        for overrides in (None, {}, {"n_groups": None}):
            with pytest.raises(ContractError, match="n_groups is required"):
                factory.create_training_payload(scan_file, tmp_path, overrides)

    def test_missing_training_file(self, training, tmp_path):
        with pytest.raises(MissingFileError, match="Training data file not found") as caught:
            training(data=tmp_path / "nowhere.npz")
        assert isinstance(caught.value, FileNotFoundError)
        assert str(tmp_path / "nowhere.npz") in str(caught.value)

    def test_all_missing_files_at_once(self, training, scan_file, tmp_path):
        with pytest.raises(MissingFileError) as caught:
            training(data=[tmp_path / "a.npz", scan_file, tmp_path / "b.npz"])
        assert len(caught.value.problems) == 2

    @pytest.mark.parametrize(("given_name", "nearest"), [("learning_rat", "learning_rate"), ("gridsiz", "gridsize")])
    def test_unknown_options(self, training, inference, given_name, nearest):
        """Invariant 33: never dropped, and the nearest name is offered."""
        for make in (training, inference):
            with pytest.raises(ContractError, match=f"did you mean '{nearest}'") as caught:
                make({given_name: 1})
            assert caught.value.codes == ("config.unknown",)

    @settings(max_examples=25)
    @given(name=st.text(min_size=1, max_size=20))
    def test_random_names(self, factory, scan_file, name):
        """Invariant 33."""
        sections = (DataConfig, ModelConfig, TrainingConfig, ExecutionConfig)
        known = {name for section in sections for row in schema(section) for name in (row.name, *row.aliases)}
        if name in known:
            return
        with pytest.raises(ContractError) as caught:
            factory.create_training_payload(scan_file, "unused", {**N_GROUPS, name: 1})
        assert "config.unknown" in caught.value.codes

    def test_unknown_options_come_before_missing_files(self, training, tmp_path):
        with pytest.raises(ContractError, match="did you mean"):
            training({"gridsiz": 1}, data=tmp_path / "nowhere.npz")

    @pytest.mark.parametrize(
        ("option", "value"),
        [
            ("accelerator", "tpu"),
            ("devices", 0),
            ("num_nodes", 0),
            ("strategy", "magic"),
            ("deterministic", 1),
            ("precision", "8-true"),
            ("gradient_clip_val", 0.0),
            ("accum_steps", 0),
            ("num_workers", -1),
            ("prefetch_factor", 0),
            ("learning_rate", 0.0),
            ("learning_rate", float("nan")),
            ("scheduler", "none"),
            ("enable_progress_bar", "yes"),
            ("enable_checkpointing", None),
            ("checkpoint_save_top_k", -2),
            ("checkpoint_monitor_metric", "accuracy"),
            ("checkpoint_mode", "median"),
            ("early_stop_patience", 0),
            ("logger_backend", "paper"),
            ("inference_batch_size", 0),
        ],
    )
    def test_illegal_execution_values(self, training, option, value):
        """ValueError that names the field, the value and the legal ones; given either way."""
        row = next(row for row in schema(ExecutionConfig) if row.name == option)
        for attempt in (lambda: ExecutionConfig(**{option: value}), lambda: training({option: value})):
            with pytest.raises(ValueError, match=option) as caught:
                attempt()
            assert repr(value) in str(caught.value)
            assert row.legal in str(caught.value)

    def test_no_execution_option_is_untested(self):
        """Invariant 36: a new option gets a line above."""
        mark = next(mark for mark in Validation.test_illegal_execution_values.pytestmark)
        tested = {option for option, _ in mark.args[1]}
        assert tested == {row.name for row in schema(ExecutionConfig)}

    def test_execution_defaults(self):
        """As the behaviours to be accepted have them."""
        assert to_dict(ExecutionConfig()) == {
            "accelerator": "auto",
            "devices": 1,
            "num_nodes": 1,
            "strategy": "auto",
            "deterministic": True,
            "precision": "32-true",
            "gradient_clip_val": None,
            "accum_steps": 1,
            "num_workers": 0,
            "prefetch_factor": None,
            "learning_rate": 1e-3,
            "scheduler": "cosine",
            "enable_progress_bar": True,
            "enable_checkpointing": True,
            "checkpoint_save_top_k": 1,
            "checkpoint_monitor_metric": "val_loss",
            "checkpoint_mode": "min",
            "early_stop_patience": 100,
            "logger_backend": "csv",
            "inference_batch_size": None,
        }

    def test_prefetch_without_workers(self, training):
        with pytest.raises(ContractError, match=r"config\.no_effect"):
            training(prefetch_factor=2)
        assert training(prefetch_factor=2, num_workers=1).execution_config.prefetch_factor == 2

    @pytest.mark.parametrize(
        ("options", "idle"),
        [
            ({"architecture": "cnn", "iterations": 2, "passes": 5}, ["model.iterations", "model.passes"]),
            ({"calibrate_probe": False, "calibration_epochs": 3}, ["training.calibration_epochs"]),
            ({"calibration_epochs": 3}, ["training.calibration_epochs"]),  # the simulated probe is exact
            ({"enable_checkpointing": False, "checkpoint_save_top_k": 2}, ["execution.checkpoint_save_top_k"]),
            ({"gridsize": 1, "neighbor_count": 6}, ["data.neighbor_count"]),
            ({"inference_batch_size": 8}, ["execution.inference_batch_size"]),
            ({"nphotons": 1e5}, ["scan"]),  # the file holds counts
        ],
    )
    def test_options_without_effect(self, training, options, idle):
        """CFG-24 to CFG-28: what the command refuses, the factory refuses."""
        with pytest.raises(ContractError) as caught:
            training(options)
        assert set(caught.value.codes) == {"config.no_effect"}
        assert len(caught.value.problems) == len(idle)
        assert all(name in problem.where for name, problem in zip(idle, caught.value.problems, strict=True))

    def test_options_without_effect_in_the_execution_configuration(self, training):
        """CFG-26: judged beside the options of both layers."""
        kept = ExecutionConfig(checkpoint_save_top_k=3)
        assert training(execution=kept).execution_config.checkpoint_save_top_k == 3
        with pytest.raises(ContractError, match=r"checkpoint_save_top_k: .*config\.no_effect"):
            training({"enable_checkpointing": False}, kept)

    def test_a_scan_in_memory_is_not_read_again(self, training, scan_file):
        """CFG-28: options of reading are refused unless they say how it was read."""
        scan = read_scan(scan_file)
        assert training(data=scan, measurement="counts").pt_data_config.measurement == "counts"
        for options in ({"measurement": "amplitude"}, {"nphotons": 500.0}):
            with pytest.raises(ContractError, match=r"scan in memory holds counts.*config\.no_effect"):
                training(options, data=scan)

    def test_too_few_neighbours(self, training):
        with pytest.raises(ContractError, match=r"config\.neighbours"):
            training(gridsize=3, neighbor_count=7)

    def test_all_problems_at_once(self, training):
        with pytest.raises(ContractError) as caught:
            training(epochs=0, width=1, learning_rate=-1.0)
        assert len(caught.value.problems) == 3

    def test_a_file_that_is_no_scan(self, training, tmp_path):
        (tmp_path / "scan.npz").write_bytes(b"nothing")
        with pytest.raises(ContractError, match=r"scan\.npz"):
            training(data=tmp_path / "scan.npz")


class InferencePayloadStructure(Payloads):
    """What an inference payload is made of."""

    def test_sections(self, inference, tmp_path):
        payload = inference({"refine": 3}, ExecutionConfig(inference_batch_size=5))
        assert isinstance(payload.pt_inference_config, InferenceConfig)
        assert payload.pt_inference_config.refine == 3
        assert payload.execution_config.inference_batch_size == 5
        assert payload.overrides_applied["refine"] == {"value": 3, "source": "explicit"}
        assert payload.overrides_applied["inference_batch_size"] == {"value": 5, "source": "execution"}
        assert payload.output_dir == tmp_path / "out"
        assert len(payload.scan) == 64

    def test_the_model_decides_its_groups(self, inference):
        """Invariant 29: gridsize and neighbours come from the bundle."""
        payload = inference()
        assert payload.pt_data_config.gridsize == payload.pt_model_config.gridsize == 3
        assert payload.pt_data_config.C == payload.pt_model_config.C_forward == payload.pt_model_config.C_model == 9
        assert payload.pt_data_config.neighbor_count == 11
        assert payload.overrides_applied["gridsize"] == {"value": 3, "source": "bundle"}

    @pytest.mark.parametrize(("option", "value"), [("gridsize", 2), ("N", 64)])
    def test_what_the_model_fixes_cannot_be_overridden(self, inference, option, value):
        with pytest.raises(ContractError, match=r"config\.fixed_by_model") as caught:
            inference({option: value})
        assert option in str(caught.value)

    def test_neighbours_may_be_overridden(self, inference):
        payload = inference({"neighbor_count": 20, "n_groups": 30, "assembly": "groups"})
        assert (payload.pt_data_config.neighbor_count, payload.pt_data_config.n_groups) == (20, 30)

    @pytest.mark.parametrize("option", ["neighbor_count", "n_groups", "oversampling", "max_distance_px"])
    def test_a_canvas_has_no_groups(self, inference, option):
        """CFG-25: the network takes all patterns at once, so that ``auto`` is a canvas."""
        with pytest.raises(ContractError, match=rf"data\.{option}: .*a canvas.*config\.no_effect"):
            inference({option: 20})

    @pytest.mark.parametrize(
        ("option", "value"),
        [
            ("subsample", 30),
            ("devices", 2),
            ("num_nodes", 2),
            ("precision", "64-true"),
            ("learning_rate", 0.5),
            ("deterministic", False),
            ("scheduler", "constant"),
            ("logger_backend", "tensorboard"),
            ("accum_steps", 2),
        ],
    )
    def test_options_of_the_training_are_refused(self, inference, option, value):
        """CFG-24: as an override, with its default too, and as an execution configuration that differs from it."""
        default = {row.name: row.default for row in (*schema(ExecutionConfig), *schema(DataConfig))}[option]
        attempts = [({option: value}, None)] + ([] if default is None else [({option: default}, None)])
        if option != "subsample":
            attempts.append((None, ExecutionConfig(**{option: value})))
        for overrides, execution in attempts:
            with pytest.raises(ContractError, match=rf"{option}: .*infer does not read it") as caught:
                inference(overrides, execution)
            assert caught.value.codes == ("config.no_effect",)

    def test_a_default_execution_configuration_is_accepted(self, inference):
        """CFG-26: it names every option, and asks for nothing."""
        payload = inference(execution=ExecutionConfig())
        assert payload.execution_config == ExecutionConfig()
        assert payload.overrides_applied["num_workers"] == {"value": 0, "source": "execution"}
        assert "learning_rate" not in payload.overrides_applied

    def test_missing_model(self, inference, tmp_path):
        with pytest.raises(MissingFileError, match="Model archive not found") as caught:
            inference(model=tmp_path / "none.safetensors")
        assert str(tmp_path / "none.safetensors") in str(caught.value)

    def test_missing_data(self, inference, tmp_path):
        with pytest.raises(MissingFileError, match="Test data file not found") as caught:
            inference(data=tmp_path / "none.npz")
        assert str(tmp_path / "none.npz") in str(caught.value)

    def test_training_options_are_unknown_here(self, inference):
        with pytest.raises(ContractError, match=r"config\.unknown"):
            inference({"epochs": 3})

    def test_paths_may_be_texts(self, factory, model_file, scan_file):
        assert factory.create_inference_payload(str(model_file), str(scan_file), "out").output_dir == Path("out")

    def test_a_scan_of_another_size(self, inference, scan_file, tmp_path):
        scan = read_scan(scan_file)
        small = replace(
            scan,
            measurements=scan.measurements[:, 8:24, 8:24],
            probe=scan.probe[:, 8:24, 8:24],
            object_truth=None,
            object_origin_yx_px=None,
        )
        write_scan(tmp_path / "small.npz", small)
        with pytest.raises(ContractError, match=r"scan\.size"):
            inference(data=tmp_path / "small.npz")


class LegacyDictionary(Payloads):
    """A caller's flat dictionary, filled from a payload."""

    def test_execution_never_enters(self, training, scan_file):
        payload = training(gridsize=2, learning_rate=0.25)
        legacy: dict = {"theirs": 1}
        for section in (
            payload.pt_data_config,
            payload.pt_model_config,
            payload.pt_training_config,
            payload.execution_config,
        ):
            update_legacy_dict(legacy, section, output_dir=payload.output_dir, train_data_file=scan_file)
        assert legacy["gridsize"] == 2
        assert legacy["N"] == 32
        assert legacy["theirs"] == 1
        assert legacy["output_prefix"] == str(payload.output_dir)
        assert legacy["train_data_file_path"] == str(scan_file)
        assert not legacy.keys() & {row.name for row in schema(ExecutionConfig)}


def other_values(row) -> list:
    """Legal values of an option, its default apart."""
    if row.choices:
        values = list(row.choices)
    elif row.type is bool:
        values = [True, False]
    elif row.type is str:
        values = ["0.25"]
    else:
        low = row.minimum if row.minimum is not None else row.above if row.above is not None else 1
        high = row.maximum if row.maximum is not None else low + 8
        values = [row.type(low + (high - low) * fraction) for fraction in (0.25, 0.5)]
    return [value for value in values if value != row.default]
