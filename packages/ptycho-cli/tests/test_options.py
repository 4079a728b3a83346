"""Flags, configuration files and what reaches the backend (specs/cli.md, CLI-1 to CLI-6)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ptycho_cli.config_file import read_config
from ptycho_cli.main import build_app, main
from ptycho_cli.options import INFER_OPTIONS, OPTIONS_OF, RECONSTRUCT_OPTIONS, TRAIN_OPTIONS, negative_flag
from ptycho_contracts.config import Option
from ptycho_contracts.problems import ContractError

pytestmark = pytest.mark.usefixtures("undrawn")


def values(row: Option) -> list[Any]:
    """Legal values of an option, its default among them where there is one."""
    if row.choices:
        # The small scan holds counts; what does not fit the data is refused when the file is read.
        return ["auto", "counts"] if row.name == "measurement" else list(row.choices)
    if row.type is bool:
        return [True, False]
    if row.name == "start_from":
        return [__file__]  # any file that exists
    if row.type is str:
        return ["0.25"]
    if row.name == "neighbor_count":
        return [3, 9]  # of the default gridsize 2
    least = row.minimum if row.minimum is not None else (row.above or 0) + 0.25
    most = row.maximum if row.maximum is not None else least + 2
    return sorted({row.type(least), row.type(most)})


def words(row: Option, value: Any) -> list[str]:
    """The arguments that give an option on the command line."""
    if row.type is bool:
        return [row.flag if value else str(negative_flag(row))]
    return [row.flag, str(value)]


def flags(options: dict[str, Any]) -> list[str]:
    """The arguments that give some options."""
    return [word for name, value in options.items() for word in ("--" + name.replace("_", "-"), str(value))]


def train_cases() -> list[Any]:
    return [pytest.param(row, value, id=f"{row.name}={value}") for row in TRAIN_OPTIONS for value in values(row)]


# What gives an option an effect.
NORMALISED = {"measurement": "normalised-amplitude"}
TRAIN_COMPANIONS = {"prefetch_factor": {"num_workers": 1}, "nphotons": NORMALISED}
INFER_COMPANIONS = {
    **{
        name: {"refine": 2}
        for name in (
            "correct_positions",
            "fit_background",
            "val_fraction",
            "prior",
            "prior_weight",
            "enable_checkpointing",
        )
    },
    "early_stop_patience": {"refine": 2, "val_fraction": 0.25},
    "nphotons": NORMALISED,
}
RECONSTRUCT_COMPANIONS = {"early_stop_patience": {"val_fraction": 0.25}, "nphotons": NORMALISED}
OWN_GROUP_COUNT = ("n_groups", "oversampling")


@pytest.mark.parametrize(("row", "value"), train_cases())
def test_each_flag_of_train_reaches_the_backend_and_nothing_else_does(backend, data_file, tmp_path, row, value):
    """CLI-2."""
    argv = ["train", str(data_file), "--output-dir", str(tmp_path / "out"), *words(row, value)]
    groups = [] if row.name in OWN_GROUP_COUNT else ["--n-groups", "5"]
    companions = TRAIN_COMPANIONS.get(row.name, {})
    assert main(argv + groups + flags(companions)) == 0
    expected = {**({"n_groups": 5} if groups else {}), row.name: value, **companions}
    assert backend.calls["payload"]["overrides"] == expected


@pytest.mark.parametrize("row", INFER_OPTIONS, ids=lambda row: row.name)
def test_each_flag_of_infer_reaches_the_backend_and_nothing_else_does(backend, data_file, tmp_path, row):
    """CLI-2."""
    model = tmp_path / "model.safetensors"
    model.write_bytes(b"a bundle")
    for value in values(row)[-2:]:
        argv = ["infer", str(model), str(data_file), "--output-dir", str(tmp_path / "out"), "--overwrite"]
        argv += words(row, value)
        companions = INFER_COMPANIONS.get(row.name, {})
        assert main(argv + flags(companions)) == 0
        assert backend.calls["payload"]["overrides"] == {row.name: value, **companions}


@pytest.mark.parametrize("row", RECONSTRUCT_OPTIONS, ids=lambda row: row.name)
def test_each_flag_of_reconstruct_reaches_the_backend(backend, data_file, tmp_path, row):
    """CLI-2: the backend receives whole sections; only the given option differs from its default."""
    companions = RECONSTRUCT_COMPANIONS.get(row.name, {})
    for value in values(row)[-2:]:
        argv = ["reconstruct", str(data_file), "--output-dir", str(tmp_path / "out"), "--overwrite"]
        argv += words(row, value)
        assert main(argv + flags(companions)) == 0
        call = backend.calls["reconstruct"]
        owner = {"reconstruction": call["config"], "execution": call["execution_config"]}.get(row.section)
        seen = call[row.name] if owner is None else getattr(owner, row.name)
        assert seen == value
        for other in RECONSTRUCT_OPTIONS:
            if other.name not in (row.name, *companions) and other.section != "data":
                section = call["config"] if other.section == "reconstruction" else call["execution_config"]
                assert getattr(section, other.name) == other.default


@pytest.mark.parametrize(
    ("command", "flag"),
    [
        ("infer", "--learning-rate"),
        ("infer", "--gridsize"),
        ("reconstruct", "--precision"),
        ("train", "--inference-batch-size"),
    ],
)
def test_an_option_that_the_command_does_not_read_is_refused(backend, data_file, tmp_path, capsys, command, flag):
    """Invariant 36: no flag parses and does nothing (CLI-1)."""
    files = [str(data_file)] * (2 if command == "infer" else 1)
    assert main([command, *files, "--output-dir", str(tmp_path / "out"), flag, "1"]) == 2
    assert flag in capsys.readouterr().err
    assert backend.calls == {}


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("train {data} --architecture cnn --iterations 2 --passes 4", ["--iterations out", "--passes out"]),
        ("train {data} --validation {data} --val-fraction 0.1", ["--val-fraction out"]),
        ("train {data} --disable-checkpointing --checkpoint-save-top-k 1", ["--disable-checkpointing: no checkpoints"]),
        ("train {data} --keep-probe --calibration-epochs 3", ["--keep-probe: the probe is kept"]),
        ("train {data} --gridsize 1 --neighbor-count 6 --max-distance-px 9", ["--neighbor-count", "--max-distance-px"]),
        ("train {data} --prefetch-factor 2", ["beside --num-workers 0"]),
        ("train {data} --nphotons 1e5", ["the patterns are counts", "leave --nphotons out"]),
        ("infer {data} {data} --fit-background", ["beside --refine 0: nothing is fitted"]),
        ("infer {data} {data} --refine 2 --prior none --prior-weight 2", ["beside --prior none"]),
        ("infer {data} {data} --assembly groups --levels 2", ["only a canvas has levels"]),
        ("infer {data} {data} --nphotons 1e5", ["the patterns are counts"]),
        ("reconstruct {data} --early-stop-patience 9", ["beside --val-fraction 0"]),
        ("reconstruct {data} --nphotons 1e5", ["the patterns are counts"]),
    ],
)
def test_an_option_without_effect_is_refused_before_any_work(backend, data_file, tmp_path, capsys, words, named):
    """CFG-25, CFG-28: exit 2, one line, in the words of the command line."""
    argv = [word.format(data=data_file) for word in words.split()]
    assert main([*argv, "--output-dir", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "config.no_effect" in err
    assert [text for text in named if text not in err] == []
    assert backend.calls == {}
    assert not (tmp_path / "out").exists()


def test_an_option_without_effect_in_a_configuration_file_is_refused(backend, data_file, tmp_path, capsys):
    """CFG-26: what a configuration file names is given."""
    (tmp_path / "settings.toml").write_text(f'validation = "{data_file}"\n[training]\nval_fraction = 0.05\n')
    argv = ["train", str(data_file), "--output-dir", str(tmp_path / "out"), "--config", str(tmp_path / "settings.toml")]
    assert main(argv) == 2
    assert "beside --validation: what is given for validation validates" in capsys.readouterr().err
    assert backend.calls == {}


@pytest.mark.parametrize("row", TRAIN_OPTIONS, ids=lambda row: row.name)
def test_a_flag_beats_the_configuration_file_and_the_file_beats_the_default(backend, data_file, tmp_path, row):
    """Invariant 35: explicit > file > defaults, for every option of train (CLI-3)."""
    low, high = values(row)[0], values(row)[-1]
    config = tmp_path / "config.toml"
    companion = "".join(f"{name} = {toml(value)}\n" for name, value in TRAIN_COMPANIONS.get(row.name, {}).items())
    config.write_text(companion + f"{row.name} = {toml(low)}\n")
    argv = ["train", str(data_file), "--output-dir", str(tmp_path / "out"), "--config", str(config)]
    argv += [] if row.name in OWN_GROUP_COUNT else ["--n-groups", "5"]
    assert main(argv) == 0
    assert backend.calls["payload"]["overrides"][row.name] == low
    assert main([*argv, *words(row, high), "--overwrite"]) == 0
    assert backend.calls["payload"]["overrides"][row.name] == high


@pytest.mark.parametrize("command", ["infer", "reconstruct"])
def test_a_flag_of_an_imaging_command_beats_the_configuration_file(backend, data_file, tmp_path, command):
    """Invariant 35 (CLI-3): seed and backend of the flags, and of the file the rest."""
    (tmp_path / "config.toml").write_text("seed = 3\nhold_out = '0.25'\nbackend = 'tf'\n")
    (tmp_path / "model.safetensors").write_bytes(b"a bundle")
    words = ["--config", str(tmp_path / "config.toml"), "--seed", "4", "--backend", "torch"]
    files = {
        "infer": [str(tmp_path / "model.safetensors"), str(data_file), "--output-dir", str(tmp_path / "out")],
        "reconstruct": [str(data_file), "--output-dir", str(tmp_path / "out")],
    }
    assert main([command, *files[command], *words]) == 0
    if command == "infer":
        assert backend.calls["payload"]["overrides"] == {"seed": 4, "hold_out": "0.25"}
    else:
        config = backend.calls["reconstruct"]["config"]
        assert (config.seed, config.hold_out) == (4, "0.25")


def toml(value: Any) -> str:
    """A value as TOML."""
    return str(value).lower() if isinstance(value, bool) else f'"{value}"' if isinstance(value, str) else repr(value)


def test_a_configuration_file_may_use_tables_flag_spellings_and_name_backend_and_validation(
    backend, data_file, tmp_path
):
    """CLI-4."""
    config = tmp_path / "config.toml"
    config.write_text(
        f'backend = "pytorch"\nvalidation = "{data_file}"\n[data]\ngridsize = 1\n'
        '[execution]\naccumulate-grad-batches = 2\nlogger = "none"\n'
    )
    assert main(["train", str(data_file), "--output-dir", str(tmp_path / "out"), "--config", str(config)]) == 0
    assert backend.calls["payload"]["overrides"] == {
        "accum_steps": 2,
        "logger_backend": "none",
        "gridsize": 1,
        "n_groups": 12,
    }
    assert backend.calls["train"]["validation"].metadata["source"] == str(data_file)


def test_several_validation_files_all_count(backend, data_file, tmp_path, capsys):
    """CLI-4, CLI-10: flags beat the configuration file; each file is read, and looked for before any work."""
    argv = ["train", str(data_file), "--output-dir", str(tmp_path / "out"), "--overwrite"]
    assert main([*argv, "--validation", str(data_file), "--validation", str(data_file)]) == 0
    assert len(backend.calls["train"]["validation"]) == 24
    config = tmp_path / "config.toml"
    config.write_text(f'validation = ["{data_file}", "{data_file}", "{data_file}"]\n')
    assert main([*argv, "--config", str(config)]) == 0
    assert len(backend.calls["train"]["validation"]) == 36
    assert main([*argv, "--config", str(config), "--validation", str(data_file)]) == 0
    assert len(backend.calls["train"]["validation"]) == 12
    assert main([*argv, "--validation", str(data_file), "--validation", str(tmp_path / "none.npz")]) == 2
    assert "none.npz" in capsys.readouterr().err
    config.write_text("validation = 3\n")
    assert main([*argv, "--config", str(config)]) == 2
    assert "one or more paths" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("epoch = 3", "config.unknown", "did you mean 'epochs'?"),
        ("[training]\nepoch = 3", "config.unknown", "did you mean 'epochs'?"),
        ("[trainning]\nepochs = 3", "config.unknown", "did you mean 'training'?"),
        ("[trainning]", "config.unknown", "did you mean 'training'?"),
        ("[data]\nepochs = 3", "config.table", "'epochs' in [training]"),
        ("epochs = 0", "config.value", "an integer >= 1"),
        ('epochs = "many"', "config.value", "an integer >= 1"),
        ("epochs = 3\n[training]\nepochs = 4", "config.repeated", "'epochs' once"),
        ("epochs = ", "config.toml", "a TOML file"),
        ("[execution]\nbackend = 'torch'", "config.unknown", "'backend'"),
    ],
)
def test_a_bad_configuration_file_says_what_is_wrong(tmp_path, text, code, words):
    """Invariant 33 (CLI-4)."""
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(ContractError, match="config") as caught:
        read_config(path, TRAIN_OPTIONS, extra=("backend",))
    assert caught.value.codes == (code,)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)


def test_all_problems_of_a_configuration_file_are_reported_at_once(tmp_path):
    """CLI-4."""
    path = tmp_path / "config.toml"
    path.write_text("epoch = 3\nseed = -1\n[model]\nwidht = 4\n")
    with pytest.raises(ContractError) as caught:
        read_config(path, TRAIN_OPTIONS)
    assert caught.value.codes == ("config.unknown", "config.value", "config.unknown")


@given(name=st.from_regex(r"[a-z][a-z_]{0,20}", fullmatch=True))
def test_unknown_names_never_pass(tmp_path, name):
    """Invariant 33: any name that is no option raises (CLI-4)."""
    flags = {row.flag.removeprefix("--").replace("-", "_") for row in TRAIN_OPTIONS}
    known = flags | {name for row in TRAIN_OPTIONS for name in (row.name, *row.aliases)}
    path = tmp_path / "config.toml"
    path.write_text(f"{name} = 1\n")
    if name not in known:
        with pytest.raises(ContractError, match=name):
            read_config(path, TRAIN_OPTIONS)


@pytest.mark.parametrize(
    ("old", "new", "name", "value"),
    [
        (["--device", "cpu"], "--accelerator", "accelerator", "cpu"),
        (["--device=cpu"], "--accelerator", "accelerator", "cpu"),
        (["--n_images", "7"], "--n-groups", "n_groups", 7),
        (["--sweeps", "2"], "--passes", "passes", 2),
        (["--disable_mlflow"], "--logger none", "logger_backend", "none"),
    ],
)
def test_deprecated_spellings_work_and_name_the_new_flag(backend, data_file, tmp_path, old, new, name, value):
    """CLI-6."""
    with pytest.warns(DeprecationWarning, match=new):
        assert main(["train", str(data_file), "--output-dir", str(tmp_path / "out"), *old]) == 0
    assert backend.calls["payload"]["overrides"][name] == value


def test_a_deprecated_flag_is_never_replaced_by_one_that_the_command_rejects(backend, data_file, tmp_path, capsys):
    """CLI-6: on ``infer``, ``--n_images`` is an error in its own name; the model stays what decides."""
    model = tmp_path / "model.safetensors"
    model.write_bytes(b"a bundle")
    argv = ["infer", str(model), str(data_file), "--output-dir", str(tmp_path / "out")]
    for old in (["--n_images", "7"], ["--n_images=7"], ["--sweeps", "2"]):
        assert main([*argv, *old]) == 2
        err = capsys.readouterr().err
        assert err.startswith(f"ptycho-cli: error: {old[0].partition('=')[0]}: expected a flag of infer, found")
        assert "only for train" in err
    assert backend.calls == {}
    assert main(["simulate", str(tmp_path / "new.npz"), "--device", "cpu"]) == 2
    assert "only for train, infer, reconstruct, evaluate (--accelerator)" in capsys.readouterr().err


def test_a_deprecated_flag_that_asks_for_nothing_has_no_meaning_on_infer(backend, data_file, tmp_path):
    """CLI-6: ``--disable_mlflow`` on commands that log no metrics."""
    model = tmp_path / "model.safetensors"
    model.write_bytes(b"a bundle")
    for command, files in (("infer", [model, data_file]), ("reconstruct", [data_file])):
        with pytest.warns(DeprecationWarning, match=f"no meaning for {command}"):
            assert main([command, *map(str, files), "--output-dir", str(tmp_path / command), "--disable_mlflow"]) == 0
    assert backend.calls["payload"]["overrides"] == {}


def test_deprecated_spellings_are_renamed_on_infer(backend, data_file, tmp_path):
    """CLI-6."""
    model = tmp_path / "model.safetensors"
    model.write_bytes(b"a bundle")
    argv = ["infer", str(model), str(data_file), "--output-dir", str(tmp_path / "out")]
    with pytest.warns(DeprecationWarning, match="--accelerator"):
        assert main([*argv, "--device", "cpu"]) == 0
    assert backend.calls["payload"]["overrides"] == {"accelerator": "cpu"}


def test_n_groups_is_the_number_of_patterns_by_default(backend, data_file, tmp_path):
    """CLI-2: and it is the only override that the command adds."""
    assert main(["train", str(data_file), "--output-dir", str(tmp_path / "out")]) == 0
    assert backend.calls["payload"]["overrides"] == {"n_groups": 12}


def test_several_training_files_count_together(backend, data_file, tmp_path):
    """CLI-2, CLI-10."""
    assert main(["train", str(data_file), str(data_file), "--output-dir", str(tmp_path / "out")]) == 0
    assert len(backend.calls["payload"]["data"]) == 24
    assert backend.calls["payload"]["overrides"] == {"n_groups": 24}


@pytest.mark.parametrize("command", OPTIONS_OF)
def test_help_begins_with_the_options_that_most_users_meet(command, capsys, monkeypatch):
    """CFG-30: few of them, before all others, each with the clause that says when one needs it."""
    monkeypatch.setenv("COLUMNS", "1000")
    main([command, "--help"])
    text = capsys.readouterr().out
    common = [row for row in OPTIONS_OF[command] if row.common]
    others = [row for row in OPTIONS_OF[command] if not row.common]
    assert 1 <= len(common) <= 10
    last = max(text.index(f" {row.flag} ") for row in common)
    assert all(text.index(f" {row.flag} ") > last for row in others)
    for row in OPTIONS_OF[command]:
        assert f"When: {row.when}" in text


def integer_flags() -> list[tuple[str, str]]:
    """Command and flag of every parameter that is an integer, of the schema or not."""
    app = build_app()
    return [
        (command, argument.name)
        for command in app
        if not command.startswith("-")
        for argument in app[command].assemble_argument_collection()
        if argument.hint in (int, int | None)
    ]


def test_every_command_with_integers_is_tried():
    flags = integer_flags()
    assert {command for command, _ in flags} == {"train", "infer", "reconstruct", "evaluate", "import", "simulate"}
    assert {("train", "--gridsize"), ("import", "--bin"), ("simulate", "--N")} <= set(flags)


@pytest.mark.parametrize(
    ("command", "flag", "text"),
    [
        *((command, flag, "2.5") for command, flag in integer_flags()),
        *(("train", "--gridsize", text) for text in ("2.0", "2.", ".5", "1e1", "0x10", "two", "-2.0")),
    ],
)
def test_a_fraction_is_no_integer(capsys, command, flag, text):
    """CLI-60: refused by the parser, before any file is looked for."""
    files = {"train": ["a"], "infer": ["a", "b"], "import": ["a", "b.npz"], "evaluate": []}.get(command, ["a.npz"])
    output = ["--output-dir", "none"] if command in ("train", "infer", "reconstruct") else []
    assert main([command, *files, *output, flag, text]) == 2
    assert f"{flag}: expected a whole number, found {text!r}" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["train", "infer", "reconstruct"])
def test_the_turn_that_inspect_names_is_applied(backend, data_file, scan, tmp_path, command):
    """CLI-53: [x, y] becomes [y, -x] before anything uses the positions."""
    (tmp_path / "model.safetensors").write_bytes(b"a bundle")
    files = [str(tmp_path / "model.safetensors"), str(data_file)] if command == "infer" else [str(data_file)]
    argv = [command, *files, "--output-dir", str(tmp_path / "out"), "--turn", "x' = y, y' = -x"]
    assert main(argv) == 0
    call = backend.calls["reconstruct" if command == "reconstruct" else "payload"]
    turned = scan.positions_px[:, ::-1] * [1, -1]
    moved = call["data"].positions_px - turned
    assert abs(moved - moved[0]).max() < 1e-9


def test_the_turn_comes_after_that_of_the_mapping(backend, scan, tmp_path):
    """CLI-53: inspect ranks what a mapping has turned already, so that its answer is a further turn."""
    x, y = scan.positions_px.T
    np.savez(tmp_path / "raw.npz", data=scan.measurements, x=y, y=-x)  # [y, -x] of the true ones
    told = ["--position-unit", "px", "--turn", "x'=-x, y'=y", "--quiet"]
    assert main(["import", str(tmp_path / "raw.npz"), str(tmp_path / "first.npz"), *told]) == 0
    argv = ["reconstruct", str(tmp_path / "raw.npz"), "--mapping", str(tmp_path / "first.toml")]
    assert main([*argv, "--turn", "x'=-y, y'=-x", "--output-dir", str(tmp_path / "out")]) == 0
    # The mapping makes [-y, -x] of them, and the turn [x, y].
    moved = backend.calls["reconstruct"]["data"].positions_px - scan.positions_px
    assert abs(moved - moved[0]).max() < 1e-9


@pytest.mark.parametrize("words", [["evaluate", "{data}", "--truth", "{data}"], ["inspect", "{data}"]])
def test_nothing_to_overwrite(data_file, capsys, words):
    """CFG-24: a flag without effect is refused."""
    assert main([*(word.format(data=data_file) for word in words), "--overwrite"]) == 2
    assert "config.no_effect" in capsys.readouterr().err
