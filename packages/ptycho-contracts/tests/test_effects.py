"""Options without effect (CFG-24 to CFG-27)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ptycho_contracts.config import (
    DataConfig,
    ExecutionConfig,
    InferenceConfig,
    ModelConfig,
    ReconstructionConfig,
    TrainingConfig,
    resolve,
    schema,
)
from ptycho_contracts.effects import RULES, changed, markdown_rules, read_options, require_effects, settings_read
from ptycho_contracts.problems import ContractError

SECTIONS = {
    "train": (DataConfig, ModelConfig, TrainingConfig, ExecutionConfig),
    "infer": (DataConfig, InferenceConfig, ExecutionConfig),
    "reconstruct": (DataConfig, ReconstructionConfig, ExecutionConfig),
    "evaluate": (DataConfig, ReconstructionConfig, ExecutionConfig),
    "evaluate beside a truth": (DataConfig, ReconstructionConfig, ExecutionConfig),
    "convert": (DataConfig, ExecutionConfig),
}

NEVER_READ = {
    "train": {"inference_batch_size"},
    "infer": {"subsample", "devices", "num_nodes", "strategy", "deterministic", "precision", "gradient_clip_val"}
    | {"accum_steps", "prefetch_factor", "learning_rate", "scheduler", "checkpoint_save_top_k", "logger_backend"}
    | {"checkpoint_monitor_metric", "checkpoint_mode"},
    "reconstruct": {"gridsize", "n_groups", "N", "subsample", "num_workers", "learning_rate", "inference_batch_size"},
    "evaluate": {"enable_checkpointing", "precision", "oversampling"},
    "evaluate beside a truth": {"epochs", "modes", "accelerator", "early_stop_patience"},
    "convert": {"gridsize", "n_groups", "accelerator", "enable_progress_bar"},
}
"""Written by hand from what the workflows pass on, not from the table under test."""

FITTED = {"correct_positions": True, "fit_background": True, "val_fraction": 0.1, "prior": "tv", "prior_weight": "2"}
FITTED |= {"early_stop_patience": 3, "enable_checkpointing": True}
NEIGHBOURS = {"neighbor_count": 7, "min_distance_px": 1.0, "max_distance_px": 9.0}
CASES = [
    # command, what makes the options idle, the idle options, what gives them an effect
    ("train", {"architecture": "cnn"}, {"iterations": 3, "passes": 4}, {"architecture": "unrolled"}),
    ("train", {"architecture": "cnn"}, {"iterations": 2, "passes": 3}, {}),
    ("train", {"gridsize": 1}, NEIGHBOURS, {"gridsize": 2}),
    ("infer", {"gridsize": 1, "assembly": "groups"}, NEIGHBOURS, {"gridsize": 2, "assembly": "groups"}),
    ("train", {"calibrate_probe": False}, {"calibration_epochs": 15}, {"calibrate_probe": True}),
    ("train", {"enable_checkpointing": False}, {"checkpoint_save_top_k": 1}, {"enable_checkpointing": True}),
    ("train", {"num_workers": 0}, {"prefetch_factor": 2}, {"num_workers": 1}),
    ("infer", {}, FITTED, {"refine": 2}),
    ("infer", {"assembly": "groups"}, {"levels": 2}, {"assembly": "auto"}),
    ("infer", {"assembly": "canvas"}, {"n_groups": 9, "sequential": True, **NEIGHBOURS}, {"assembly": "groups"}),
    ("infer", {"assembly": "canvas"}, {"oversampling": 2}, {"assembly": "groups"}),
    ("infer", {"refine": 2, "prior": "none"}, {"prior_weight": "2"}, {"refine": 2, "prior": "tv"}),
    ("reconstruct", {"prior": "none"}, {"prior_weight": "2"}, {}),
    ("evaluate", {"prior": "none"}, {"prior_weight": "0.5"}, {"prior": "network"}),
]
KNOWN_CASES = [
    # command, what is known of the input, the options given, those that are idle
    ("train", {"validation": True}, {"val_fraction": 0.05}, {"val_fraction"}),
    ("train", {"validation": False}, {"val_fraction": 0.05}, set()),
    ("train", {"exact_probe": True}, {"calibration_epochs": 3}, {"calibration_epochs"}),
    ("train", {"exact_probe": False}, {"calibration_epochs": 3}, set()),
    ("train", {"exact_probe": True}, {"calibration_epochs": 3, "calibrate_probe": True}, set()),
    ("infer", {"assembly": "canvas"}, {"n_groups": 9}, {"n_groups"}),
    ("infer", {"assembly": "groups"}, {"levels": 2}, {"levels"}),
    ("infer", {"pretrained": True}, {"probe_source": "bundle"}, {"probe_source"}),
    ("infer", {"pretrained": False}, {"probe_source": "file"}, set()),
    *[
        (command, {"validation": given}, {"early_stop_patience": 100, **more}, idle)
        for command, more in (("infer", {"refine": 1}), ("reconstruct", {}), ("evaluate", {}))
        for given, idle in ((False, {"early_stop_patience"}), (True, set()))
    ],
    ("convert", {"patterns": False}, {"measurement": "counts", "nphotons": 9.0}, {"measurement", "nphotons"}),
    ("convert", {"patterns": True}, {"measurement": "counts", "nphotons": 9.0}, set()),
    ("reconstruct", {"validation": False}, {"early_stop_patience": 3, "val_fraction": 0.1}, set()),
    ("reconstruct", {"validation": True}, {"val_fraction": 0.1}, {"val_fraction"}),
]


def idle(command, layers, **known) -> set[str]:
    """Names of the options that are refused."""
    resolved = resolve(SECTIONS[command], layers)
    try:
        require_effects(command, resolved.applied, resolved.sections.values(), **known)
    except ContractError as error:
        refused = error.problems
    else:
        refused = ()
    assert {problem.code for problem in refused} <= {"config.no_effect"}
    return {problem.where.partition(".")[2] for problem in refused}


class TestRules:
    """CFG-25."""

    @pytest.mark.parametrize(("command", "beside", "options", "instead"), CASES, ids=str)
    def test_options_without_effect_are_refused_all_at_once(self, command, beside, options, instead):
        """Also where the given value is the default; and they pass where they have an effect."""
        patience = {"val_fraction": 0.1} if "early_stop_patience" in options else {}
        assert idle(command, {"explicit": {**beside, **options}}) == set(options)
        if (beside, options) != (CASES[1][1], CASES[1][2]):
            assert idle(command, {"explicit": {**options, **instead, **patience}}) == set()

    @pytest.mark.parametrize(("command", "known", "options", "expected"), KNOWN_CASES, ids=str)
    def test_what_is_known_of_the_input_counts(self, command, known, options, expected):
        assert idle(command, {"explicit": options}, **known) == expected

    def test_what_is_not_known_refuses_nothing(self):
        assert idle("train", {"explicit": {"val_fraction": 0.1, "calibration_epochs": 2}}) == set()
        assert idle("reconstruct", {"explicit": {"early_stop_patience": 3}}) == set()

    def test_no_rule_is_untested(self):
        tested = {(command, name) for command, _, options, _ in CASES for name in options}
        tested |= {(command, name) for command, _, _, names in KNOWN_CASES for name in names}
        rules = {(command, name) for rule in RULES for command in rule.commands for name in rule.options}
        # One rule for all joint fits: validation given as patterns.
        assert rules - tested == {("infer", "val_fraction"), ("evaluate", "val_fraction")} - tested

    def test_rules_are_about_options_that_their_commands_read(self):
        for rule in RULES:
            for command in rule.commands:
                assert set(rule.options) <= {row.name for row in read_options(command)}

    @pytest.mark.parametrize(
        ("command", "options"),
        [
            ("train", {"enable_checkpointing": False, "checkpoint_save_top_k": 0}),
            ("train", {"gridsize": 1, "neighbor_count": 0, "min_distance_px": 0.0, "max_distance_px": None}),
            (
                "infer",
                {"correct_positions": False, "val_fraction": 0.0, "prior": "none", "enable_checkpointing": False},
            ),
        ],
    )
    def test_values_that_ask_for_nothing_are_obeyed(self, command, options):
        assert idle(command, {"explicit": options}, validation=True) == set()

    def test_the_message(self):
        """Names option, value and reason, in the words of Python; backticks become flags on the command line."""
        resolved = resolve(SECTIONS["train"], {"explicit": {"architecture": "cnn", "passes": 3}})
        with pytest.raises(ContractError) as caught:
            require_effects("train", resolved.applied, resolved.sections.values())
        assert str(caught.value) == (
            "model.passes: expected an option that has an effect, found 3, which has none beside `architecture=cnn`: "
            "only the unrolled network has rounds of physics; leave `passes` out [config.no_effect]"
        )


class TestUnread:
    """CFG-24."""

    @pytest.mark.parametrize("command", SECTIONS)
    def test_options_that_a_command_never_passes_on_are_refused(self, command):
        read = {row.name for row in read_options(command)}
        assert not read & NEVER_READ[command]
        rows = {row.name: row for section in SECTIONS[command] for row in schema(section)}
        for name in NEVER_READ[command]:
            value = next(v for v in (*rows[name].choices, True, 1, 3, 0.25) if rows[name].accepts(v))
            helpers = {"num_workers": 1} if name == "prefetch_factor" else {}
            assert name in idle(command, {"explicit": {name: value, **helpers}})

    @given(command=st.sampled_from(sorted(SECTIONS)), data=st.data())
    def test_exactly_what_is_read_passes(self, command, data):
        """Any option of the sections, with a value that is not its default, in any layer that somebody wrote."""
        rows = [row for section in SECTIONS[command] for row in schema(section)]
        row = data.draw(st.sampled_from(rows))
        values = [*row.choices, not row.default if row.type is bool else 8, 3, 0.25, "0.25"]
        value = data.draw(st.sampled_from([v for v in values if row.accepts(v) and v != row.default]))
        layer = data.draw(st.sampled_from(["explicit", "execution"]))
        read = row.name in {row.name for row in read_options(command)}
        ruled = any(command in rule.commands and row.name in rule.options for rule in RULES)
        refused = row.name in idle(command, {layer: {row.name: value}})
        assert refused == (not read) or (read and ruled)

    @given(command=st.sampled_from(sorted(SECTIONS)))
    def test_a_whole_execution_configuration_counts_as_what_differs(self, command):
        """CFG-26: it names every option; what files and bundles state is not refused."""
        whole = {row.name: row.default for row in schema(ExecutionConfig)}
        assert idle(command, {"execution": whole}, validation=False) == set()
        assert idle(command, {"bundle": {"subsample": 3}, "file": {"N": 32, "nphotons": 9.0}}) == set()
        changed_one = {**whole, "checkpoint_save_top_k": 3}
        assert idle(command, {"execution": changed_one}) == (set() if command == "train" else {"checkpoint_save_top_k"})

    def test_none_is_not_given(self):
        assert idle("infer", {"explicit": {"subsample": None, "gradient_clip_val": None}}) == set()

    def test_sections_built_in_python(self):
        """CFG-26: only what differs from the defaults counts."""
        sections = (ReconstructionConfig(epochs=3), ExecutionConfig(precision="64-true"))
        assert changed(*sections) == {
            "epochs": {"value": 3, "source": "sections"},
            "precision": {"value": "64-true", "source": "sections"},
        }
        with pytest.raises(ContractError, match=r"^execution\.precision: .*reconstruct does not read it"):
            require_effects("reconstruct", changed(*sections), sections)


def test_settings_hold_what_is_read():
    """CFG-27."""
    tables = settings_read("infer", (DataConfig(), ModelConfig(), InferenceConfig(), ExecutionConfig()))
    assert set(tables["execution"]) == {
        "accelerator",
        "num_workers",
        "enable_progress_bar",
        "enable_checkpointing",
        "early_stop_patience",
        "inference_batch_size",
    }
    assert "subsample" not in tables["data"]
    assert set(tables["model"]) == {row.name for row in schema(ModelConfig)}
    assert set(tables["inference"]) == {row.name for row in schema(InferenceConfig)}


def test_the_table_for_the_docs_has_every_rule():
    """Invariant 37."""
    lines = markdown_rules().splitlines()[2:]
    assert len(lines) == len(RULES)
    for line, rule in zip(lines, RULES, strict=True):
        assert all(f"`{name}`" in line for name in rule.options)
        assert rule.because in line
