"""What a workflow asks of a backend: physics, network and trainer, natively in one framework."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.config import ExecutionConfig, ModelConfig, TrainingConfig
from ptycho_contracts.physics import PassSchedule

from ptycho_data.batches import GroupBatches, ModuliStream, PatternSource
from ptycho_data.bundle_file import Bundle
from ptycho_data.canvas import Sites
from ptycho_data.deadline import Deadline
from ptycho_data.fitting import FarFieldResidual, JointFit, Prior, TrainingCheckpoints, TrainingOutcome
from ptycho_data.signals import Waiting
from ptycho_data.stages import Picture, Progress


class Model(Protocol):
    """A network with its probe, in a backend's framework."""

    config: ModelConfig

    @property
    def infers_whole_canvas(self) -> bool:
        """Whether the network takes all patterns of a scan at once."""

    def probe_array(self) -> NDArray[np.complex64]:
        """(K, N, N) probe of unit energy."""

    def weight_arrays(self) -> Mapping[str, NDArray[np.float32]]:
        """The network's weights by their names in a bundle."""

    def with_probe(self, probe: NDArray[np.complex64]) -> Self:
        """The same network with another probe of unit energy; this model stays as it is."""


@dataclass(frozen=True, eq=False)
class TrainingTask:
    """What a backend is to train.

    Attributes:
        config: Of the model.
        probe: (K, N, N), any scale.
        groups, validation: Disjoint groups.
        training, execution: What to fit and for how long; device, precision, schedule, checkpoints, logger.
        output_dir: Takes ``checkpoints/`` and ``logs/``.
        device: From :meth:`Backend.device`.
        start: Model whose weights the training starts from, or None.
        checkpoints: Keeps the state between epochs, and holds what to resume from; None for none.
        signals: Ctrl-C and SIGTERM, which end the training after its present step.
        deadline: When the training must have ended.
    """

    config: ModelConfig
    probe: NDArray[np.complex64]
    groups: GroupBatches
    validation: GroupBatches
    training: TrainingConfig
    execution: ExecutionConfig
    output_dir: Path
    device: str
    start: Any | None = None
    checkpoints: TrainingCheckpoints | None = None
    signals: Waiting = field(default_factory=Waiting)
    deadline: Deadline = field(default_factory=Deadline)


@dataclass(frozen=True, eq=False)
class CanvasTask:
    """Patterns of one scan, all on one canvas.

    Attributes:
        moduli: Of the subsets, pass after pass.
        sites: Of the patterns that are used.
        subsets: Indices into the sites.
        device: From :meth:`Backend.device`.
        bad_pixels: (N, N), zero frequency at [N // 2, N // 2], or None.
        start: (H, W) object to begin with, or None: empty space.
        prior: Of the object, in passes without a network, or None.
        light: Gives the (H, W) illumination of the canvas, for pictures of the work; None: nobody draws any.
    """

    moduli: ModuliStream
    sites: Sites
    subsets: Sequence[NDArray[np.int64]]
    device: str = "cpu"
    bad_pixels: NDArray[np.bool_] | None = None
    start: NDArray[np.complex64] | None = None
    prior: Prior | None = None
    light: Callable[[], NDArray[np.float32]] | None = None

    def show(self, present: Callable[[], NDArray[np.complex64]]) -> None:
        """Let who watches the progress see the object (H, W), by a function that copies it as it is then."""
        light = self.light
        if light is not None:
            self.moduli.picture = lambda: Picture(present(), light())

    def first_object(self) -> NDArray[np.complex64]:
        """(H, W) start, or empty space."""
        return np.ones(self.sites.shape, np.complex64) if self.start is None else self.start

    @staticmethod
    def pulls_anew(number: int) -> bool:
        """Whether the prior's network is applied before the pass of this number: before every other one."""
        return number > 0 and number % 2 == 0

    def pull(self, fraction: float) -> tuple[float, float]:
        """Noise level at a fraction of the passes, and the weight of the prior in each step beside the illumination
        (PRI-10)."""
        assert self.prior is not None
        per_pattern = len(self.sites) * self.prior.strength(fraction, "poisson") / 4
        return self.prior.sigma(fraction), per_pattern / len(self.subsets)


class Backend(Protocol):
    """One framework. Models are its own; everything else that goes in or out is NumPy."""

    name: str

    def versions(self) -> dict[str, str]:
        """Versions of the backend's distributions."""

    def device(self, execution: ExecutionConfig, *, training: bool = False) -> str:
        """Name of the device that the options ask for.

        Raises:
            ContractError: it does not exist here, or, for a training, options that cannot be followed.
        """

    def fit(self, task: TrainingTask, *, progress: Progress | None = None) -> tuple[Any, TrainingOutcome]:
        """Train a model; it holds the weights of the best checkpoint, or the last ones, on the CPU.

        Raises:
            ContractError: a logger that is not installed, or a precision that the device lacks.
            WorkFailedError: the loss or the weights stopped being finite.
            TrainingInterrupted: a signal came, and there is a checkpoint to continue from.
        """

    def infer_canvas(self, model: Any, task: CanvasTask) -> list[NDArray[np.complex64]]:
        """(H, W) objects of all patterns at once, for a probe of unit energy: that of the network, a model that infers
        a whole canvas; with a start, before it the same without the last net's correction (NET-12)."""

    def passes_on_canvas(
        self, probe: NDArray[np.complex64], task: CanvasTask, schedule: PassSchedule
    ) -> NDArray[np.complex64]:
        """(H, W) object after passes without a network from the task's start (NET-5), the mean over the last one.

        Args:
            probe: (K, N, N) complex64.
            task: Where the passes go.
            schedule: Number, dampings and momentum of the passes.
        """

    def infer_groups(
        self, model: Any, groups: GroupBatches, *, batch_size: int, num_workers: int, device: str
    ) -> Iterator[tuple[NDArray[np.complex64], NDArray[np.int64]]]:
        """Patches (n, N, N) under the members of some groups, group by group, and their indices (n,)."""

    def joint_fit(
        self, source: PatternSource, sites: Sites, probe: NDArray[np.complex64], *, device: str, **options: Any
    ) -> JointFit:
        """Object and probe fitted jointly; options as :func:`ptycho_data.fitting.joint_reconstruction`."""

    def residual(
        self,
        source: PatternSource,
        object_: NDArray[np.complex64],
        probe: NDArray[np.complex64],
        sites: Sites,
        indices: NDArray[np.int64],
        *,
        device: str,
        background: NDArray[np.float32] | None = None,
    ) -> FarFieldResidual:
        """R (PHY-22) of some patterns, its Poisson floor and the part of each pattern.

        Args:
            object_: (H, W) complex.
            probe: (K, N, N) complex, normalised to the scan's mean counts.
            background: (N, N) counts added to every pattern, zero frequency at [0, 0].
        """

    def load(self, path: Path) -> Bundle:
        """Open a bundle.

        Raises:
            MissingFileError, ContractError: as :func:`ptycho_data.bundle_file.read_bundle`.
        """

    def save(self, path: Path, bundle: Bundle) -> None:
        """Write a bundle; what was at ``path`` is replaced in one step.

        Raises:
            WorkFailedError: weights that are NaN or infinite.
        """
