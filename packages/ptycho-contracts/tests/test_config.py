"""The option schema (CFG-1 to CFG-16)."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from ptycho_contracts.config import (
    SECTIONS,
    DataConfig,
    ExecutionConfig,
    InferenceConfig,
    ModelConfig,
    ReconstructionConfig,
    TrainingConfig,
    from_dict,
    from_tables,
    markdown_table,
    resolve,
    schema,
    to_dict,
    to_tables,
)
from ptycho_contracts.import_options import ImportOptions
from ptycho_contracts.problems import ContractError

GOLDEN = Path(__file__).with_name("golden_config.json")
OPTIONS = {(section, row.name): row for section in SECTIONS for row in schema(section)}
NAMES = sorted({name for _, name in OPTIONS})
EARLIER = {name for section in SECTIONS for row in schema(section) for name in row.aliases}


HELPERS = {"neighbor_count": {"gridsize": 1}}
"""What must be given with an option for it to be legal."""


def legal_values(row) -> st.SearchStrategy:
    """Values that an option accepts by itself."""
    if row.choices:
        values = st.sampled_from(row.choices)
    elif row.type is bool:
        values = st.booleans()
    elif row.name == "hold_out":
        values = st.sampled_from(["0", "0.1", "held.npy"])
    elif row.name == "prior_weight":
        values = st.sampled_from(["auto", "0.5", "2"])
    elif row.type is str:
        values = st.sampled_from(["model.safetensors", "other"])
    elif row.type is int:
        values = st.integers(int(row.minimum), int(row.maximum or row.minimum + 50))
    else:
        low, above = row.minimum, row.above
        values = st.floats(low if above is None else above, row.maximum or 1e6, exclude_min=above is not None)
    return values | st.none() if row.optional else values


def build(section, **values):
    """A section that holds the values, with what rules between options ask for."""
    if section is DataConfig and values.get("neighbor_count") is not None:
        values["neighbor_count"] = max(values["neighbor_count"], values.get("gridsize", 2) ** 2 - 1)
    if values.get("oversampling") is not None:
        values["n_groups"] = None
    return section(**values)


@st.composite
def configurations(draw) -> dict:
    """One of each section, any legal options, the model beside its data."""
    built = {}
    for section in SECTIONS:
        rows = draw(st.lists(st.sampled_from(schema(section)), unique=True))
        values = {row.name: draw(legal_values(row)) for row in rows}
        if section is ModelConfig:
            values["data"] = built[DataConfig]
        built[section] = build(section, **values)
    return built


def problems(call, *args, **kwargs) -> list[str]:
    with pytest.raises(ContractError) as caught:
        call(*args, **kwargs)
    return [str(problem) for problem in caught.value.problems]


class TestValues:
    def test_the_defaults_are_legal(self):
        for section in SECTIONS:
            assert all(row.accepts(row.default) for row in schema(section))
            section()

    def test_a_bad_value_names_option_value_and_legal_ones(self):
        assert problems(ExecutionConfig, accelerator="gpu0") == [
            "execution.accelerator: expected one of 'auto', 'cpu', 'cuda', 'gpu', 'mps', found 'gpu0'; "
            "give a legal value or leave the option out [config.value]"
        ]
        assert problems(TrainingConfig, max_seconds=0)[0].startswith(
            "training.max_seconds: expected a number > 0 or none, found 0;"
        )
        assert problems(TrainingConfig, val_fraction=0.7)[0].startswith(
            "training.val_fraction: expected a number >= 0 and <= 0.5, found 0.7;"
        )

    def test_all_bad_values_at_once(self):
        result = problems(ExecutionConfig, devices=0, precision="8", learning_rate=-1.0, deterministic=1)
        assert [text.split(":")[0] for text in result] == [
            "execution.devices",
            "execution.deterministic",
            "execution.precision",
            "execution.learning_rate",
        ]

    @given(st.sampled_from(sorted(OPTIONS, key=str)), st.data())
    def test_bounds_and_types(self, key, data):
        """Each option takes what its texts call legal, and nothing else."""
        row = OPTIONS[key]
        assert row.accepts(data.draw(legal_values(row)))
        assert row.accepts(None) == row.optional
        assert not row.accepts([row.default])
        assert row.accepts(True) == (row.type is bool)
        for bound, step in ((row.minimum, -1), (row.maximum, 1)):
            if bound is not None:
                assert row.accepts(row.type(bound))
                assert not row.accepts(row.type(bound + step))
        assert row.above is None or not row.accepts(row.above)
        if row.type is float:
            assert not any(map(row.accepts, (math.nan, math.inf, -math.inf, "1.0")))
            assert row.accepts(1) or row.maximum is not None
        if row.choices:
            assert not row.accepts("no such choice")

    @given(st.sampled_from(sorted(OPTIONS, key=str)), st.data())
    def test_scalars_of_numpy_are_numbers(self, key, data):
        """CFG-3: the same as Python's, in sections, tables and the record of what was applied; arrays are none."""
        section, name = key
        row = OPTIONS[key]
        value = data.draw(legal_values(row).filter(lambda value: value is not None))
        kinds = {int: (np.int16, np.int64, np.uint8), float: (np.float64, np.float32, np.longdouble), str: (np.str_,)}
        kind = data.draw(st.sampled_from(kinds.get(row.type, (bool,))))
        scalar = kind(value)
        assume(row.accepts(row.plain(scalar)))
        made = resolve([section], {"explicit": {name: scalar}, "helpers": HELPERS.get(name, {})})
        for held in (getattr(made[section], name), made.applied[name]["value"]):
            assert type(held) is row.type
            assert held == scalar
        assert json.loads(json.dumps(to_dict(made[section])))[name] == held
        assert not row.accepts(np.array(value))

    def test_numbers_of_the_wrong_kind_stay_wrong(self):
        """CFG-3: a float is no integer even if it is whole; NumPy's truth values are no numbers."""
        assert problems(TrainingConfig, epochs=np.float64(16.0), batch_size=np.bool_(True)) == [
            f"training.{name}: expected an integer >= 1, found {value!r}; "
            "give a legal value or leave the option out [config.value]"
            for name, value in (("batch_size", np.bool_(True)), ("epochs", np.float64(16.0)))
        ]
        assert "found nan" in problems(ExecutionConfig, learning_rate=math.nan)[0]
        assert not any(OPTIONS[ExecutionConfig, "learning_rate"].accepts(v) for v in (10**400, np.float32("inf"), 1j))

    @given(gridsize=st.integers(2, 8), missing=st.integers(1, 3))
    def test_too_few_neighbours_state_the_bound(self, gridsize, missing):
        few = gridsize**2 - 1 - missing
        (text,) = problems(DataConfig, gridsize=gridsize, neighbor_count=few)
        assert f"at least gridsize^2 - 1 = {gridsize**2 - 1} for gridsize {gridsize}, found {few};" in text
        enough = DataConfig(gridsize=gridsize, neighbor_count=gridsize**2 - 1)
        assert enough.neighbor_count == enough.K

    def test_a_group_of_one_has_no_neighbours(self):
        assert DataConfig(gridsize=1, neighbor_count=0).K == 0
        assert DataConfig(gridsize=1).K == 0
        assert DataConfig(gridsize=2).K == 6

    @pytest.mark.parametrize("section", [TrainingConfig, InferenceConfig, ReconstructionConfig])
    @pytest.mark.parametrize("value", ["1.0", "-0.1", "some", "nan", "held.npz", ""])
    def test_hold_out_is_a_fraction_or_a_file(self, section, value):
        assert problems(section, hold_out=value) == [
            f"{section.section}.hold_out: expected a fraction from 0 to below 1, or the path of an .npy file, "
            f"found {value!r}; for example '0.1' or 'held_out.npy' [config.hold_out]"
        ]

    def test_the_shipped_prior_is_no_network_to_start_from(self):
        with pytest.raises(ContractError) as caught:
            TrainingConfig(start_from="pretrained")
        assert [problem.code for problem in caught.value.problems] == ["training.pretrained"]

    @pytest.mark.parametrize("section", SECTIONS)
    def test_sections_are_frozen_and_keyword_only(self, section):
        with pytest.raises(dataclasses.FrozenInstanceError):
            section().anything = 1
        with pytest.raises(TypeError, match="positional"):
            section(1)


class TestOneGridsize:
    """Invariant 29: C = gridsize^2, never a second number."""

    @given(configurations())
    def test_serialise_and_load_gives_the_same(self, built):
        text = json.dumps(to_tables(built.values()))
        loaded = from_tables(json.loads(text))
        assert dict(loaded.sections) == built

    @given(configurations())
    def test_channel_counts_agree(self, built):
        data, model = built[DataConfig], built[ModelConfig]
        loaded = from_tables(to_tables([model, data]))
        for one, other in ((data, model), (loaded[DataConfig], loaded[ModelConfig])):
            assert one.C == other.C_forward == other.C_model == data.gridsize**2 == other.gridsize**2

    @given(gridsize=st.integers(1, 8), order=st.permutations([DataConfig, ModelConfig]))
    def test_resolving_in_any_order_passes_the_same_data(self, gridsize, order):
        for requested in (order, [ModelConfig]):
            made = resolve(requested, {"explicit": {"gridsize": gridsize}})
            assert made[ModelConfig].data is made[DataConfig]
            assert made[ModelConfig].C_model == gridsize**2

    @pytest.mark.parametrize("name", ["C", "C_forward", "C_model", "K"])
    def test_computed_values_are_no_options(self, name):
        for section in SECTIONS:
            assert name not in to_dict(section())
            assert f"{section.section}.{name}" in problems(from_dict, section, {name: 4}, data=DataConfig())[0]
        with pytest.raises((TypeError, AttributeError)):
            dataclasses.replace(ModelConfig(), **{name: 9})

    def test_a_model_is_not_loaded_without_its_data(self):
        text = (
            "model.data: expected the section 'data' that belongs to it, found nothing; "
            "give data as a DataConfig [config.reference]"
        )
        assert problems(from_dict, ModelConfig, {}) == [text]
        assert problems(from_tables, {"model": {}}) == [text]
        assert "found dict" in problems(ModelConfig, data={"gridsize": 3})[0]


class TestUnknownNames:
    @given(name=st.text(min_size=1), layer=st.sampled_from(["explicit", "execution", "file"]))
    def test_any_unknown_name_raises(self, name, layer):
        """Invariant 33: nothing is dropped, in any layer, table or section."""
        assume(name not in NAMES and name not in EARLIER)
        expected = f"{layer}.{name}: expected a known option, found {name!r}; "
        (text,) = problems(resolve, SECTIONS, {layer: {name: 1}})
        assert text.startswith(expected)
        for section in SECTIONS:
            tables = {"data": {}, section.section: {name: 1}}
            assert f"{section.section}.{name}: expected a known option" in problems(from_tables, tables)[0]

    @given(name=st.sampled_from([name for name in NAMES if len(name) > 4]), where=st.data())
    def test_a_misspelt_name_gets_its_nearest(self, name, where):
        """Invariant 33: with the nearest known name."""
        cut = where.draw(st.integers(0, len(name) - 1))
        wrong = name[:cut] + name[cut + 1 :]
        assume(wrong not in NAMES)
        (text,) = problems(resolve, SECTIONS, {"explicit": {wrong: 1}})
        assert f"; did you mean '{name}'? [config.unknown]" in text

    @pytest.mark.parametrize(("old", "ours"), [("nepochs", "epochs"), ("max_epochs", "epochs")])
    def test_old_names_lead_to_ours(self, old, ours):
        assert f"did you mean '{ours}'?" in problems(resolve, SECTIONS, {"explicit": {old: 1}})[0]

    def test_an_option_of_another_command_is_unknown(self):
        assert "known" in problems(resolve, [DataConfig], {"explicit": {"refine": 1}})[0]

    def test_unknown_tables_raise(self):
        assert "did you mean 'training'?" in problems(from_tables, {"trainings": {}})[0]
        assert "[config.table]" in problems(from_tables, {"training": 3})[0]

    def test_all_layers_and_sections_at_once(self):
        layers = {"explicit": {"gridsise": 2, "loss": "l1"}, "file": {"nphotos": 1.0}, "execution": {"devices": 0}}
        result = problems(resolve, (DataConfig, TrainingConfig, ExecutionConfig), layers)
        assert [text.split(":")[0] for text in result] == [
            "explicit.gridsise",
            "file.nphotos",
            "training.loss",
            "execution.devices",
        ]


class TestEarlierNames:
    """CFG-23: an option's earlier name is read everywhere as its present one."""

    EARLIER = tuple(
        (alias, row.name, section) for section in SECTIONS for row in schema(section) for alias in row.aliases
    )

    def test_there_are_some(self):
        assert ("sweeps", "passes", ModelConfig) in self.EARLIER

    def test_no_earlier_name_is_an_option(self):
        assert not {alias for alias, *_ in self.EARLIER} & set(NAMES)

    @pytest.mark.parametrize("layer", ["explicit", "execution", "file"])
    def test_in_every_layer(self, layer):
        assert resolve(SECTIONS, {layer: {"sweeps": 5}})[ModelConfig].passes == 5

    def test_in_tables(self):
        written = to_tables([DataConfig(), ModelConfig(passes=5)])
        tables = {**written, "model": dict(written["model"])}
        tables["model"]["sweeps"] = tables["model"].pop("passes")
        assert from_tables(tables)[ModelConfig].passes == 5

    def test_both_names_at_once_are_an_error(self):
        (text,) = problems(resolve, SECTIONS, {"explicit": {"sweeps": 5, "passes": 5}})
        assert text == "explicit.sweeps: expected 'passes' once, found 'sweeps' too; remove one [config.repeated]"

    def test_an_illegal_value_is_reported_under_the_present_name(self):
        assert problems(resolve, SECTIONS, {"explicit": {"sweeps": 0}})[0].startswith("model.passes: ")


class TestPrecedence:
    LAYERS = ("explicit", "execution", "file")

    @given(key=st.sampled_from(sorted(OPTIONS, key=str)), data=st.data())
    def test_the_strongest_layer_that_names_an_option_wins(self, key, data):
        """Invariant 35: explicit > execution > file > defaults, for every field and layer."""
        section, name = key
        row = OPTIONS[key]
        given_by = data.draw(st.sets(st.sampled_from(self.LAYERS)))
        values = {layer: data.draw(legal_values(row)) for layer in given_by}
        helpers = HELPERS.get(name, {})
        layers = {layer: {name: values[layer]} if layer in values else {} for layer in self.LAYERS}
        made = resolve([section], {**layers, "helpers": helpers})
        winner = next((layer for layer in self.LAYERS if layer in given_by), None)
        assert getattr(made[section], name) == (row.default if winner is None else values[winner])
        assert made.applied.get(name) == (None if winner is None else {"value": values[winner], "source": winner})

    @pytest.mark.parametrize("key", sorted(OPTIONS, key=str), ids=lambda key: f"{key[0].section}.{key[1]}")
    def test_every_option_can_be_set(self, key):
        """Invariant 35: no option is forgotten when layers are merged."""
        section, name = key
        row = OPTIONS[key]
        candidates = [*row.choices, True, False, 1, 2, 3, 0.25, "0.25"]
        value = next(v for v in candidates if row.accepts(v) and v != row.default)
        helpers = HELPERS.get(name, {})
        made = resolve([section], {"explicit": {name: value}, "file": helpers})
        assert getattr(made[section], name) == value
        changed = {
            (one.section, other)
            for one in made.sections.values()
            for other, held in to_dict(one).items()
            if held != OPTIONS[type(one), other].default and other not in helpers
        }
        assert changed == {(section.section, name)}

    @given(first=st.integers(1, 8), second=st.integers(1, 8))
    def test_two_configurations_do_not_touch(self, first, second):
        """Invariant 31: results depend on arguments only."""
        one = resolve(SECTIONS, {"explicit": {"gridsize": first}})
        other = resolve(SECTIONS, {"explicit": {"gridsize": second}})
        assert (one[ModelConfig].C_model, other[ModelConfig].C_model) == (first**2, second**2)
        assert resolve(SECTIONS, {})[DataConfig] == DataConfig()


def test_golden_resolved_configuration():
    """Invariant 34: a changed default is a line in CHANGELOG.md, and a change of golden_config.json."""
    made = to_tables(resolve(SECTIONS, {}).sections.values())
    assert made == json.loads(GOLDEN.read_text()), f"now: {json.dumps(made, indent=2)}"


def test_flags_are_unique_within_a_section():
    for section in SECTIONS:
        flags = [flag for row in schema(section) for flag in (row.flag, row.negative_flag) if flag]
        assert len(flags) == len(set(flags))


@pytest.mark.parametrize(
    ("section", "row"), [(section, row) for section in (*SECTIONS, ImportOptions) for row in schema(section)], ids=str
)
def test_every_option_says_when_one_needs_it(section, row):
    """CFG-30: another text than the one that says what it is."""
    assert row.when
    assert row.when not in row.help
    assert not row.when.endswith(".")


class TestMarkdown:
    """Invariant 37: tables are made from the schema."""

    @pytest.mark.parametrize("section", SECTIONS)
    def test_one_row_per_option_with_its_texts(self, section):
        header, rule, *rows = markdown_table(section).splitlines()
        assert header == "| option | default | legal values | what it does |"
        assert rule == "|---|---|---|---|"
        for line, row in zip(rows, schema(section), strict=True):
            assert line.startswith(f"| `{row.name}` | `")
            assert line.endswith(f"| {row.legal} | {row.help} |")

    def test_defaults_are_spelt_as_in_a_file(self):
        text = markdown_table(ExecutionConfig) + markdown_table(DataConfig)
        assert "| `deterministic` | `true` | true or false |" in text
        assert "| `precision` | `\"32-true\"` | one of '32-true'" in text
        assert "| `learning_rate` | `0.001` | a number > 0 |" in text
        assert "| `n_groups` | `none` | an integer >= 1 or none |" in text
