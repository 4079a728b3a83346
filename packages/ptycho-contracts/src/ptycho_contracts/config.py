"""The one schema of all options, for both backends, the commands and the docs (specs/config.md).

Each option is declared once, as a field of a frozen dataclass with its default, help text, legal
values and flag. Command-line flags, TOML keys, reference tables and checks are derived from it.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

from ptycho_contracts.problems import ContractError, Problem, nearest

T = TypeVar("T")


def option(
    default: Any,
    help: str,
    *,
    choices: tuple[Any, ...] = (),
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
    flag: str | None = None,
    negative_flag: str | None = None,
) -> Any:
    """Declare one option: a dataclass field that knows its help text, legal values and flag.

    ``minimum`` and ``maximum`` are inclusive, ``above`` is exclusive. ``flag`` and
    ``negative_flag`` override the spelling derived from the field's name.
    """
    metadata = {
        "help": help,
        "choices": choices,
        "minimum": minimum,
        "above": above,
        "maximum": maximum,
        "flag": flag,
        "negative_flag": negative_flag,
    }
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True)
class Option:
    """One row of the schema, as flags, docs and checks see it."""

    section: str
    name: str
    type: type
    optional: bool
    default: Any
    help: str
    choices: tuple[Any, ...]
    minimum: float | None
    above: float | None
    maximum: float | None
    flag: str
    negative_flag: str | None

    @property
    def legal(self) -> str:
        """The legal values in words, for messages and docs."""
        if self.choices:
            words = "one of " + ", ".join(repr(choice) for choice in self.choices)
        else:
            words = {int: "an integer", float: "a number", str: "a text", bool: "true or false"}[self.type]
            bounds = [
                f"{sign} {bound:g}"
                for sign, bound in ((">=", self.minimum), (">", self.above), ("<=", self.maximum))
                if bound is not None
            ]
            words += " " + " and ".join(bounds) if bounds else ""
        return words + (" or none" if self.optional else "")

    def accepts(self, value: Any) -> bool:
        """Whether ``value`` is legal for this option."""
        if value is None:
            return self.optional
        if self.type is bool or isinstance(value, bool):
            return self.type is bool and isinstance(value, bool)
        if self.type is float:
            if not isinstance(value, int | float) or not math.isfinite(value):
                return False
        elif not isinstance(value, self.type):
            return False
        if self.choices:
            return value in self.choices
        if isinstance(value, str):
            return True
        return (
            (self.minimum is None or value >= self.minimum)
            and (self.above is None or value > self.above)
            and (self.maximum is None or value <= self.maximum)
        )


class Section:
    """Base of the option groups: checks every field, and derives the schema from the fields."""

    section: typing.ClassVar[str]

    def __post_init__(self) -> None:
        problems = [
            Problem(
                where=f"{self.section}.{row.name}",
                code="config.value",
                expected=row.legal,
                found=repr(getattr(self, row.name)),
                remedy="give a legal value or leave the option out",
            )
            for row in schema(type(self))
            if not row.accepts(getattr(self, row.name))
        ]
        problems += self._cross_checks() if not problems else []
        if problems:
            raise ContractError(problems)

    def _cross_checks(self) -> list[Problem]:
        """Checks between options; run when each option is legal by itself."""
        return []


@lru_cache(maxsize=None)
def schema(section: type) -> tuple[Option, ...]:
    """Options of one section, in the order of their declaration."""
    hints = typing.get_type_hints(section)
    rows = []
    for field in dataclasses.fields(section):
        if "help" not in field.metadata:
            continue
        kinds = [kind for kind in _members(hints[field.name]) if kind is not type(None)]
        flag = field.metadata["flag"] or "--" + field.name.replace("_", "-")
        negative = field.metadata["negative_flag"]
        rows.append(
            Option(
                section=section.section,
                name=field.name,
                type=kinds[0],
                optional=len(kinds) < len(_members(hints[field.name])),
                default=field.default,
                help=field.metadata["help"],
                choices=field.metadata["choices"],
                minimum=field.metadata["minimum"],
                above=field.metadata["above"],
                maximum=field.metadata["maximum"],
                flag=flag,
                negative_flag=negative,
            )
        )
    return tuple(rows)


def _members(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)


@dataclass(frozen=True, kw_only=True)
class DataConfig(Section):
    """How patterns are read and grouped."""

    section: typing.ClassVar[str] = "data"

    N: int = option(64, "side of a pattern in pixels; read from the file", minimum=2)
    gridsize: int = option(2, "patterns a group, along one side: a group has gridsize^2 patterns", minimum=1, maximum=8)
    n_groups: int | None = option(None, "number of groups; the commands use the number of patterns", minimum=1)
    neighbor_count: int | None = option(
        None, "K: members are drawn from a seed's K nearest neighbours; gridsize^2 + 2 where not given", minimum=0
    )
    nphotons: float = option(1e5, "mean photons a pattern, for files of normalised amplitude", above=0.0)
    measurement: str = option(
        "auto",
        "what the file's patterns are; auto takes the file's own word, else measures it or refuses",
        choices=("auto", "counts", "amplitude", "normalised-amplitude"),
    )

    @property
    def C(self) -> int:
        """Patterns a group."""
        return self.gridsize**2

    @property
    def K(self) -> int:
        """Neighbours from which the members of a group are drawn."""
        if self.gridsize == 1:
            return 0
        return self.C + 2 if self.neighbor_count is None else self.neighbor_count

    def _cross_checks(self) -> list[Problem]:
        if self.gridsize > 1 and self.K < self.C - 1:
            return [
                Problem(
                    where="data.neighbor_count",
                    code="config.neighbours",
                    expected=f"at least gridsize^2 - 1 = {self.C - 1} for gridsize {self.gridsize}",
                    found=str(self.neighbor_count),
                    remedy="raise neighbor_count or lower gridsize",
                )
            ]
        return []


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Section):
    """The network. Channel counts are read from ``data``, the one owner of gridsize."""

    section: typing.ClassVar[str] = "model"

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    architecture: str = option("unrolled", "network", choices=("unrolled", "cnn"))
    iterations: int = option(3, "unrolled: physics steps, each with a network of its own", minimum=1, maximum=16)
    width: int = option(16, "channels of the first level (unrolled); cnn has 4 times as many", minimum=2)
    modes: int = option(1, "incoherent probe modes", minimum=1, maximum=8)

    @property
    def gridsize(self) -> int:
        """Patterns a group along one side."""
        return self.data.gridsize

    @property
    def C_forward(self) -> int:
        """Channels that the forward model compares."""
        return self.data.C

    @property
    def C_model(self) -> int:
        """Channels that the network receives."""
        return self.data.C


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(Section):
    """What is fitted, to what, and for how long."""

    section: typing.ClassVar[str] = "training"

    batch_size: int = option(16, "groups a step", minimum=1)
    epochs: int = option(50, "passes over the training groups", minimum=1)
    max_seconds: float | None = option(None, "stop training after this many seconds of wall time", above=0.0)
    seed: int = option(0, "seed of every random choice", minimum=0)
    loss: str = option("amplitude", "loss on the diffraction patterns", choices=("poisson", "amplitude"))
    hold_out: str | None = option(
        None, "patterns never used: a fraction, or an .npy file of indices, for the residual on unseen data"
    )
    val_fraction: float = option(
        0.05, "share of the groups kept for val_loss where no validation file is given", minimum=0.0, maximum=0.5
    )
    calibrate_probe: bool | None = option(
        None,
        "calibrate the probe by joint descent before training; by default where the file does not call it exact",
        flag="--calibrate-probe",
        negative_flag="--keep-probe",
    )
    calibration_epochs: int = option(15, "epochs of the joint descent that calibrates the probe", minimum=1)


@dataclass(frozen=True, kw_only=True)
class InferenceConfig(Section):
    """How an object is imaged with a trained model."""

    section: typing.ClassVar[str] = "inference"

    hold_out: str | None = option(
        None, "patterns never used: a fraction, or an .npy file of indices, for the residual on unseen data"
    )
    seed: int = option(0, "seed of the hold-out fraction and of the refinement's minibatches", minimum=0)
    refine: int = option(0, "epochs of joint descent after the network's image", minimum=0)
    assembly: str = option(
        "auto",
        "canvas: all patterns at once on one canvas; groups: stitch the groups' patches; auto: canvas where the "
        "network can",
        choices=("auto", "canvas", "groups"),
    )
    probe_source: str = option(
        "bundle", "whose probe to image with: the bundle's (calibrated) or the data file's", choices=("bundle", "file")
    )


@dataclass(frozen=True, kw_only=True)
class ReconstructionConfig(Section):
    """Joint descent on object and probe, without a network."""

    section: typing.ClassVar[str] = "reconstruction"

    modes: int = option(3, "incoherent probe modes", minimum=1, maximum=8)
    epochs: int = option(30, "passes over the patterns", minimum=1)
    max_seconds: float | None = option(None, "stop after this many seconds of wall time", above=0.0)
    batch_size: int = option(16, "patterns a step", minimum=1)
    object_learning_rate: float = option(0.02, "Adam step of the object, in units of its amplitude", above=0.0)
    probe_learning_rate: float = option(0.005, "Adam step of the probe, in units of its largest amplitude", minimum=0.0)
    loss: str = option("amplitude", "loss on the diffraction patterns", choices=("poisson", "amplitude"))
    seed: int = option(0, "seed of every random choice", minimum=0)
    hold_out: str | None = option(
        None, "patterns never used: a fraction, or an .npy file of indices, for the residual on unseen data"
    )


@dataclass(frozen=True, kw_only=True)
class ExecutionConfig(Section):
    """Where and how the work runs; never changes what is computed, only device, precision and bookkeeping."""

    section: typing.ClassVar[str] = "execution"

    accelerator: str = option("auto", "device", choices=("auto", "cpu", "cuda", "gpu", "mps"))
    devices: int = option(1, "devices to train on", minimum=1)
    num_nodes: int = option(1, "machines to train on", minimum=1)
    strategy: str = option("auto", "how several devices share the work", choices=("auto", "ddp", "ddp_spawn"))
    deterministic: bool = option(True, "same seed, same bits")
    precision: str = option(
        "32-true", "precision of the network", choices=("32-true", "64-true", "16-mixed", "bf16-mixed")
    )
    gradient_clip_val: float | None = option(None, "largest norm of the gradient", above=0.0)
    accum_steps: int = option(1, "batches whose gradients make one step", minimum=1, flag="--accumulate-grad-batches")
    num_workers: int = option(0, "processes that load batches", minimum=0)
    prefetch_factor: int | None = option(None, "batches each worker loads ahead", minimum=1)
    learning_rate: float = option(1e-3, "step of the optimiser", above=0.0)
    scheduler: str = option(
        "cosine", "course of the learning rate", choices=("constant", "cosine", "exponential", "plateau")
    )
    enable_progress_bar: bool = option(True, "draw progress", flag="--progress", negative_flag="--quiet")
    enable_checkpointing: bool = option(
        True, "write checkpoints", flag="--enable-checkpointing", negative_flag="--disable-checkpointing"
    )
    checkpoint_save_top_k: int = option(1, "checkpoints kept; -1 keeps all", minimum=-1)
    checkpoint_monitor_metric: str = option(
        "val_loss", "metric that ranks checkpoints and stops early", choices=("val_loss", "train_loss"),
        flag="--checkpoint-monitor",
    )
    checkpoint_mode: str = option("min", "whether less or more of the metric is better", choices=("min", "max"))
    early_stop_patience: int = option(100, "epochs without improvement before training stops", minimum=1)
    logger_backend: str = option(
        "csv", "where metrics are logged", choices=("csv", "tensorboard", "mlflow", "none"), flag="--logger"
    )
    inference_batch_size: int | None = option(None, "patterns at once at inference", minimum=1)

    def _cross_checks(self) -> list[Problem]:
        if self.prefetch_factor is not None and self.num_workers == 0:
            return [
                Problem(
                    where="execution.prefetch_factor",
                    code="config.prefetch",
                    expected="no prefetch_factor without workers",
                    found=f"prefetch_factor {self.prefetch_factor} with num_workers 0",
                    remedy="set num_workers or leave prefetch_factor out",
                )
            ]
        return []


SECTIONS: tuple[type[Section], ...] = (
    DataConfig,
    ModelConfig,
    TrainingConfig,
    InferenceConfig,
    ReconstructionConfig,
    ExecutionConfig,
)


def to_dict(config: Section) -> dict[str, Any]:
    """Options of a section as JSON values; derived values and references are left out."""
    return {row.name: getattr(config, row.name) for row in schema(type(config))}


def from_dict(section: type[T], values: Mapping[str, Any], **references: Any) -> T:
    """Build a section from a mapping; unknown keys raise, with the nearest known name.

    Raises:
        ContractError: unknown keys or illegal values.
    """
    known = {row.name: row for row in schema(section)}
    check_names(values, known, where=section.section)  # type: ignore[attr-defined]
    return section(**values, **references)


def check_names(given: Mapping[str, Any], known: Mapping[str, Any] | Iterator[str], *, where: str) -> None:
    """Raise one ContractError that names every unknown key and the nearest known one."""
    known = list(known)
    problems = [
        Problem(where=f"{where}.{name}", code="config.unknown", expected="a known option", found=repr(name),
                remedy=nearest(name, known))
        for name in given
        if name not in known
    ]
    if problems:
        raise ContractError(problems)


def resolve(sections: tuple[type[Section], ...], layers: Mapping[str, Mapping[str, Any]]) -> Resolved:
    """Merge layers of options, strongest first, into the given sections.

    Args:
        sections: The sections to build; option names that occur in several get the same value.
        layers: Layer name (such as ``"explicit"``, ``"execution"``, ``"file"``) to its flat options,
            strongest layer first. Options in no layer keep their default.

    Returns:
        The sections and, for each option set by a layer, its value and that layer's name.

    Raises:
        ContractError: unknown names in any layer, or illegal values.
    """
    known = {row.name for section in sections for row in schema(section)}
    applied: dict[str, dict[str, Any]] = {}
    for layer, values in layers.items():
        check_names(values, sorted(known), where=layer)
        for name, value in values.items():
            applied.setdefault(name, {"value": value, "source": layer})
    built: dict[type[Section], Section] = {}
    for section in sections:
        mine = {row.name: applied[row.name]["value"] for row in schema(section) if row.name in applied}
        references = {"data": built[DataConfig]} if section is ModelConfig and DataConfig in built else {}
        built[section] = section(**mine, **references)
    return Resolved(sections=built, applied=applied)


@dataclass(frozen=True)
class Resolved:
    """Outcome of :func:`resolve`."""

    sections: Mapping[type[Section], Section]
    applied: Mapping[str, Mapping[str, Any]]

    def __getitem__(self, section: type[T]) -> T:
        return self.sections[section]  # type: ignore[index, return-value]
