"""The one schema of all options, for both backends, the commands and the docs (specs/config.md).

Each option is declared once, as a field of a frozen dataclass with its default, help text, legal
values and flag. Command-line flags, TOML keys, reference tables and checks are derived from it.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ptycho_contracts.options import (
    Option,
    Resolved,
    Section,
    build_tables,
    check_names,
    from_dict,
    option,
    present_names,
    resolve,
    schema,
    to_dict,
    to_tables,
)
from ptycho_contracts.problems import Problem

__all__ = [
    "PRETRAINED",
    "SECTIONS",
    "DataConfig",
    "ExecutionConfig",
    "InferenceConfig",
    "ModelConfig",
    "Option",
    "ReconstructionConfig",
    "Resolved",
    "Section",
    "TrainingConfig",
    "channel_count",
    "check_names",
    "from_dict",
    "from_tables",
    "markdown_table",
    "neighbours_drawn_from",
    "option",
    "present_names",
    "resolve",
    "schema",
    "to_dict",
    "to_tables",
]

PRETRAINED = "pretrained"
"""Named in place of a bundle's file: the learned prior that is shipped (specs/training.md, IMG-9)."""

_HOLD_OUT = "patterns never used: a fraction, or an .npy file of indices, for the residual on unseen data"
_PRIOR = (
    "prior of the object: the learned network, total variation, or none; default: the network, and with validation "
    "none where that explains the validating patterns clearly better"
)
_PRIORS = ("network", "tv", "none")
_PRIOR_WEIGHT = "weight of the prior: auto, what the noise implies, or a factor of that"
_LEVELS = (
    "resolutions from coarse to fine, each twice the one before; 1: full resolution only; default: as many as hold "
    "the probe, where there are photons enough"
)
_VALIDATION = "fraction of the used patterns for validation, not fitted; the epoch of their lowest loss is kept"


def channel_count(gridsize: int) -> int:
    """C, patterns per group: the one rule for groups, networks and losses.

    >>> [channel_count(gridsize) for gridsize in (1, 2, 3)]
    [1, 4, 9]
    """
    return gridsize**2


def neighbours_drawn_from(gridsize: int, neighbor_count: int | None) -> int:
    """K, neighbours from which the members of a group are drawn; default: two more patterns than a group has.

    >>> neighbours_drawn_from(2, None), neighbours_drawn_from(2, 9), neighbours_drawn_from(1, 9)
    (6, 9, 0)
    """
    if gridsize == 1:
        return 0
    return channel_count(gridsize) + 2 if neighbor_count is None else neighbor_count


@dataclass(frozen=True, kw_only=True)
class DataConfig(Section):
    """How patterns are read and grouped."""

    section: typing.ClassVar[str] = "data"

    N: int = option(
        64,
        "side of a pattern in pixels; read from the file",
        when="never on the command line: the file says it",
        minimum=2,
    )
    gridsize: int = option(
        2,
        "patterns per group along one side: a group has gridsize^2 patterns",
        when="3 or 4 for more context per group, with supervised_weight or strong overlap",
        common=True,
        minimum=1,
        maximum=8,
    )
    n_groups: int | None = option(
        None,
        "number of groups; the commands use the number of patterns",
        when="fewer for a quick try, more for a longer epoch",
        minimum=1,
    )
    neighbor_count: int | None = option(
        None,
        "K: members are drawn from a seed's K nearest neighbours; default: gridsize^2 + 2",
        when="more for varied groups of an irregular scan",
        minimum=0,
    )
    oversampling: int | None = option(
        None,
        "instead of n_groups: this many groups of every pattern",
        when="small scans: more groups of the same patterns",
        minimum=1,
    )
    min_distance_px: float | None = option(
        None,
        "patterns nearer to a seed are not its neighbours",
        when="scans with several frames at one position",
        minimum=0.0,
    )
    max_distance_px: float | None = option(
        None,
        "patterns farther from a seed are not its neighbours",
        when="scans with gaps, so that no group spans one",
        above=0.0,
    )
    sequential: bool = option(
        False,
        "take seeds and subsamples in the order of acquisition, not at random",
        when="to keep to the first part of a scan, with subsample",
    )
    subsample: int | None = option(
        None, "patterns of each scan to use; default: all", when="a quick try on a large scan", minimum=1
    )
    nphotons: float = option(
        1e5,
        "mean photons per pattern, for files of normalised amplitude",
        when="files of normalised amplitude, which do not know their dose",
        above=0.0,
    )
    measurement: str = option(
        "auto",
        "what the file's patterns are; auto: as the file declares, else from the values",
        when="where `inspect` names the wrong unit",
        choices=("auto", "counts", "amplitude", "normalised-amplitude"),
    )

    @property
    def C(self) -> int:
        """Patterns per group."""
        return channel_count(self.gridsize)

    @property
    def K(self) -> int:
        """Neighbours from which the members of a group are drawn."""
        return neighbours_drawn_from(self.gridsize, self.neighbor_count)

    def _cross_checks(self) -> list[Problem]:
        problems = []
        if self.gridsize > 1 and self.K < self.C - 1:
            problems.append(
                Problem(
                    where="data.neighbor_count",
                    code="config.neighbours",
                    expected=f"at least gridsize^2 - 1 = {self.C - 1} for gridsize {self.gridsize}",
                    found=str(self.neighbor_count),
                    remedy="raise neighbor_count or lower gridsize",
                )
            )
        if self.oversampling is not None and self.n_groups is not None:
            problems.append(
                Problem(
                    where="data.oversampling",
                    code="config.group_count",
                    expected="either n_groups or oversampling",
                    found=f"n_groups {self.n_groups} and oversampling {self.oversampling}",
                    remedy="leave one of them out",
                )
            )
        return problems


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Section):
    """The network. Channel counts are read from ``data``, the one owner of gridsize."""

    section: typing.ClassVar[str] = "model"

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    architecture: str = option(
        "unrolled",
        "network",
        when="cnn for comparison only: without physics inside it needs far more training",
        choices=("unrolled", "cnn"),
    )
    iterations: int = option(
        2,
        "unrolled: rounds of physics, each with its own network",
        when="1 where speed counts more than quality",
        minimum=1,
        maximum=16,
    )
    passes: int = option(
        3,
        "unrolled: passes over all patterns before each network",
        when="more where R of the image stays above its floor",
        minimum=1,
        maximum=64,
        aliases=("sweeps",),
    )
    width: int = option(
        16,
        "channels of the first level (unrolled); cnn has 4 times as many",
        when="more for many scans on a GPU",
        minimum=2,
    )
    modes: int = option(
        1,
        "incoherent probe modes",
        when="2 or 3 for measured data: partial coherence, vibration",
        common=True,
        minimum=1,
        maximum=8,
    )

    @property
    def gridsize(self) -> int:
        """Patterns per group along one side."""
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

    batch_size: int = option(16, "groups per step", when="less where memory is short", minimum=1)
    epochs: int = option(
        5, "passes over the training groups", when="more where val_loss still falls at the end", common=True, minimum=1
    )
    max_seconds: float | None = option(
        None,
        "end the whole run within this many seconds of wall time",
        when="a first try, or a job with a time limit",
        common=True,
        above=0.0,
    )
    seed: int = option(0, "seed of every random choice", when="to see how far results depend on chance", minimum=0)
    loss: str = option(
        "amplitude",
        "loss on the diffraction patterns",
        when="poisson where photons are few",
        choices=("poisson", "amplitude"),
    )
    hold_out: str | None = option(None, _HOLD_OUT, when="for a residual on patterns that were never used", common=True)
    val_fraction: float = option(
        0.05,
        "fraction of the groups kept for val_loss if no validation file is given",
        when="0 where every pattern is wanted for training",
        minimum=0.0,
        maximum=0.5,
    )
    calibrate_probe: bool | None = option(
        None,
        "calibrate the probe by joint reconstruction before training; default: unless the file declares it exact",
        when="keep a probe that was well measured, calibrate one that a file wrongly calls exact",
        common=True,
        flag="--calibrate-probe",
        negative_flag="--keep-probe",
    )
    synthetic: int = option(
        0,
        "train on this many simulated objects with the scan's own probe, positions and dose, not on the scan",
        when="few measured patterns, or one known probe for many scans",
        minimum=0,
    )
    supervised_weight: float = option(
        0.0,
        "weight of the squared error of the object, added to the loss on the patterns; needs true objects: synthetic "
        "or files with a true object",
        when="1 with synthetic, where low frequencies of the phase matter",
        minimum=0.0,
    )
    start_from: str | None = option(
        None,
        "model of the same network whose weights training starts from",
        when="a similar scan was trained before",
        common=True,
    )
    calibration_epochs: int = option(
        15,
        "epochs of the joint reconstruction that calibrates the probe",
        when="more where the probe is far off",
        minimum=1,
    )

    def _cross_checks(self) -> list[Problem]:
        problems = _hold_out_problems(self.section, self.hold_out)
        if self.start_from == PRETRAINED:
            problems.append(
                Problem(
                    where=f"{self.section}.start_from",
                    code="training.pretrained",
                    expected="a model that `train` wrote",
                    found=f"{PRETRAINED!r}, which is no such network but a prior that needs no training",
                    remedy=f"leave start_from out, or image the scan with it at once: infer {PRETRAINED}",
                )
            )
        return problems


@dataclass(frozen=True, kw_only=True)
class InferenceConfig(Section):
    """How an object is inferred with a trained model."""

    section: typing.ClassVar[str] = "inference"

    hold_out: str | None = option(None, _HOLD_OUT, when="for a residual on patterns that were never used", common=True)
    seed: int = option(
        0,
        "seed of the hold-out fraction and of the refinement's minibatches",
        when="to see how far results depend on chance",
        minimum=0,
    )
    refine: int = option(
        0,
        "epochs of joint reconstruction after the network's image",
        when="5, where R of the network's image is above its floor",
        common=True,
        minimum=0,
    )
    correct_positions: bool = option(
        False,
        "with refine: also correct the positions, by gradient descent",
        when="stages that drift or lag",
        common=True,
    )
    fit_background: bool = option(
        False,
        "with refine: also fit a background, the same for all patterns",
        when="parasitic light, or a dark level that was not subtracted",
        common=True,
    )
    val_fraction: float = option(
        0.0,
        f"with refine: {_VALIDATION}",
        when="long refinements, to end before noise is fitted",
        minimum=0.0,
        maximum=0.5,
    )
    assembly: str = option(
        "auto",
        "canvas: all patterns at once on one canvas; groups: stitch the groups' patches; auto: canvas if the "
        "network can",
        when="groups to see what the network makes of each group alone",
        choices=("auto", "canvas", "groups"),
    )
    levels: int | None = option(None, _LEVELS, when="1 to compare with full resolution", minimum=1, maximum=8)
    prior: str | None = option(
        None,
        f"with refine: {_PRIOR}",
        when="none for the data alone, tv for a prior that was not learned",
        choices=_PRIORS,
    )
    prior_weight: str = option(
        "auto", f"with refine: {_PRIOR_WEIGHT}", when="more where noise remains, less where fine detail is lost"
    )
    probe_source: str = option(
        "bundle",
        "whose probe to use: the bundle's (calibrated) or the data file's",
        when="file where the new scan has a well known probe of its own",
        choices=("bundle", "file"),
    )

    def _cross_checks(self) -> list[Problem]:
        problems = _weight_problems(self.section, self.prior_weight)
        return problems + _hold_out_problems(self.section, self.hold_out)


@dataclass(frozen=True, kw_only=True)
class ReconstructionConfig(Section):
    """Joint reconstruction of object and probe, without a network."""

    section: typing.ClassVar[str] = "reconstruction"

    modes: int = option(
        3,
        "incoherent probe modes",
        when="1 for simulated data; more where R stays above its floor",
        common=True,
        minimum=1,
        maximum=8,
    )
    epochs: int = option(
        20,
        "passes over the patterns at full resolution",
        when="more where R still falls at the end, or with fewer than 100 patterns",
        common=True,
        minimum=1,
    )
    max_seconds: float | None = option(
        None,
        "end the whole run within this many seconds of wall time",
        when="a first try, or a job with a time limit",
        common=True,
        above=0.0,
    )
    batch_size: int = option(16, "patterns per step", when="less where memory is short", minimum=1)
    object_learning_rate: float = option(
        0.02, "Adam step of the object, in units of its amplitude", when="less where the fit is unstable", above=0.0
    )
    probe_learning_rate: float = option(
        0.02, "Adam step of the probe, in units of its largest amplitude", when="0 holds the probe", minimum=0.0
    )
    correct_positions: bool = option(
        False, "also correct the positions, by gradient descent", when="stages that drift or lag", common=True
    )
    fit_background: bool = option(
        False,
        "also fit a background, the same for all patterns",
        when="parasitic light, or a dark level that was not subtracted",
        common=True,
    )
    val_fraction: float = option(
        0.0, _VALIDATION, when="long fits, to end before noise is fitted", minimum=0.0, maximum=0.5
    )
    loss: str = option(
        "auto",
        "loss on the diffraction patterns; auto: poisson where photons are few, else amplitude",
        when="to compare; auto has chosen by the light",
        choices=("auto", "poisson", "amplitude"),
    )
    levels: int | None = option(None, _LEVELS, when="1 to compare with full resolution", minimum=1, maximum=8)
    prior: str | None = option(
        None, _PRIOR, when="none for the data alone, tv for a prior that was not learned", common=True, choices=_PRIORS
    )
    prior_weight: str = option("auto", _PRIOR_WEIGHT, when="more where noise remains, less where fine detail is lost")
    seed: int = option(0, "seed of every random choice", when="to see how far results depend on chance", minimum=0)
    hold_out: str | None = option(None, _HOLD_OUT, when="for a residual on patterns that were never used", common=True)

    def _cross_checks(self) -> list[Problem]:
        problems = _weight_problems(self.section, self.prior_weight)
        return problems + _hold_out_problems(self.section, self.hold_out)


@dataclass(frozen=True, kw_only=True)
class ExecutionConfig(Section):
    """Where and how the work runs; never changes what is computed, only device, precision and bookkeeping."""

    section: typing.ClassVar[str] = "execution"

    accelerator: str = option(
        "auto",
        "device",
        when="cpu to leave a GPU to others",
        common=True,
        choices=("auto", "cpu", "cuda", "gpu", "mps"),
    )
    devices: int = option(1, "devices to train on", when="several GPUs", minimum=1)
    num_nodes: int = option(
        1, "machines to train on; how to start them: docs/several-machines.md", when="a cluster", minimum=1
    )
    strategy: str = option(
        "auto",
        "how several devices share the work",
        when="ddp_spawn where processes cannot be started anew",
        choices=("auto", "ddp", "ddp_spawn"),
    )
    deterministic: bool = option(True, "same seed, same bits", when="--no-deterministic for more speed on a GPU")
    precision: str = option(
        "32-true",
        "precision of the network",
        when="bf16-mixed on a recent GPU",
        choices=("32-true", "64-true", "16-mixed", "bf16-mixed"),
    )
    gradient_clip_val: float | None = option(
        None, "largest norm of the gradient", when="a training that diverges", above=0.0
    )
    accum_steps: int = option(
        1,
        "batches whose gradients make one step",
        when="a batch that does not fit into memory",
        minimum=1,
        flag="--accumulate-grad-batches",
    )
    num_workers: int = option(
        0, "processes that load batches", when="where reading is slower than the steps", minimum=0
    )
    prefetch_factor: int | None = option(
        None, "batches each worker loads ahead", when="with num_workers, where reading comes in bursts", minimum=1
    )
    learning_rate: float = option(1e-3, "step of the optimiser", when="less where training diverges", above=0.0)
    scheduler: str = option(
        "cosine",
        "schedule of the learning rate",
        when="constant or plateau where the length of the training is open",
        choices=("constant", "cosine", "exponential", "plateau"),
    )
    enable_progress_bar: bool = option(
        True, "draw progress", when="logs and scripts: --quiet", flag="--progress", negative_flag="--quiet"
    )
    enable_checkpointing: bool = option(
        True,
        "write checkpoints",
        when="a disk that is slow or small",
        flag="--enable-checkpointing",
        negative_flag="--disable-checkpointing",
    )
    checkpoint_save_top_k: int = option(1, "checkpoints kept; -1 keeps all", when="to compare epochs", minimum=-1)
    checkpoint_monitor_metric: str = option(
        "val_loss",
        "metric that ranks checkpoints and stops early",
        when="train_loss where nothing validates",
        choices=("val_loss", "train_loss"),
        flag="--checkpoint-monitor",
    )
    checkpoint_mode: str = option(
        "min",
        "whether less or more of the metric is better",
        when="a metric of which more is better; both of ours are losses",
        choices=("min", "max"),
    )
    early_stop_patience: int = option(
        100,
        "epochs without improvement before training, or a fit with val_fraction, stops",
        when="long trainings and fits",
        minimum=1,
    )
    logger_backend: str = option(
        "csv",
        "where metrics are logged",
        when="to compare many trainings",
        choices=("csv", "tensorboard", "mlflow", "none"),
        flag="--logger",
    )
    inference_batch_size: int | None = option(
        None, "patterns at once at inference", when="less where memory is short", minimum=1
    )


SECTIONS: tuple[type[Section], ...] = (
    DataConfig,
    ModelConfig,
    TrainingConfig,
    InferenceConfig,
    ReconstructionConfig,
    ExecutionConfig,
)


def from_tables(tables: Mapping[str, Mapping[str, Any]]) -> Resolved:
    """Sections from ``{section: {option: value}}``, as :func:`to_tables` writes them (CFG-16).

    Sections without a table are not built, except that a model's ``data`` must be present.

    Raises:
        ContractError: unknown tables or options, illegal values, a model without its data.
    """
    return build_tables(tables, SECTIONS)


def markdown_table(section: type[Section]) -> str:
    """The reference table of one section: option, default, legal values, help."""
    lines = ["| option | default | legal values | what it does |", "|---|---|---|---|"]
    for row in schema(section):
        cells = (f"`{row.name}`", f"`{_toml(row.default)}`", row.legal, row.help)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    """A default as written in a configuration file."""
    if value is None:
        return "none"
    return str(value).lower() if isinstance(value, bool) else f'"{value}"' if isinstance(value, str) else f"{value:g}"


def _weight_problems(section: str, weight: str) -> list[Problem]:
    try:
        legal = weight == "auto" or 0.0 < float(weight) < math.inf
    except ValueError:
        legal = False
    if legal:
        return []
    where, code = f"{section}.prior_weight", "config.prior_weight"
    return [Problem(where, code, "auto, or a number above 0", repr(weight), "for example auto, or 0.5")]


def _hold_out_problems(section: str, value: str | None) -> list[Problem]:
    if value is None or value.endswith(".npy"):
        return []
    try:
        legal = 0.0 <= float(value) < 1.0
    except ValueError:
        legal = False
    if legal:
        return []
    return [
        Problem(
            where=f"{section}.hold_out",
            code="config.hold_out",
            expected="a fraction from 0 to below 1, or the path of an .npy file",
            found=repr(value),
            remedy="for example '0.1' or 'held_out.npy'",
        )
    ]
