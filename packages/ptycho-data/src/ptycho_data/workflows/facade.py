"""The suite in a notebook: one object with everything that a scientist calls, for one backend.

A backend's package provides these names itself: ``import ptycho_torch as pt; pt.reconstruct(scan, epochs=20)``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.config import DataConfig, ExecutionConfig, ReconstructionConfig, check_names, resolve, schema
from ptycho_contracts.effects import require_effects
from ptycho_contracts.records import Reconstruction, Scan

from ptycho_data.bundle_file import Bundle
from ptycho_data.stages import Progress
from ptycho_data.workflows.backend import Backend
from ptycho_data.workflows.evaluate import Evaluation, compare_with_truth, evaluate_scan
from ptycho_data.workflows.infer import infer
from ptycho_data.workflows.options import default_group_count
from ptycho_data.workflows.payloads import inference_payload, training_payload
from ptycho_data.workflows.reading import ScanOrFile, combined_scan
from ptycho_data.workflows.reconstruct import reconstruct
from ptycho_data.workflows.summary import Summary
from ptycho_data.workflows.train import train

_SECTIONS = (DataConfig, ReconstructionConfig, ExecutionConfig)

_OF_BACKEND = ("evaluate", "infer", "load", "reconstruct", "save", "train")
_OF_DATA = {
    "read_scan": "ptycho_data.files",
    "scan_from_arrays": "ptycho_data.files",
    "simulate": "ptycho_data.simulate",
}


class Facade:
    """Train, infer, reconstruct and evaluate with one backend; scans and models in memory, or their files.

    Options are keywords by their names in ``docs/options.md``; an unknown or illegal one is a ContractError.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def train(
        self,
        scans: ScanOrFile | Sequence[ScanOrFile],
        *,
        output_dir: str | Path | None = None,
        validation: ScanOrFile | Sequence[ScanOrFile] | None = None,
        progress: Progress | None = None,
        **options: Any,
    ) -> tuple[Bundle, Summary]:
        """Train a network on scans.

        Args:
            scans: One scan or file, or several.
            output_dir: Takes the model, its store, checkpoints and logs; default: nothing is kept on disk.
            validation: Scan or file whose groups give ``val_loss``, or several; default: a fraction of the groups.
            progress: Called as ``progress(stage, done, total)``.
            options: Of the data, model, training and execution sections; ``hold_out`` may be an array of indices.

        Returns:
            The model, for :meth:`infer` and :meth:`save`, and the summary of the training.

        Raises:
            MissingFileError: a file that does not exist.
            ContractError: bad data or options.
            WorkFailedError: the training diverged.
        """
        scan = combined_scan(scans, options)
        if options.get("n_groups") is None and options.get("oversampling") is None:
            options["n_groups"] = default_group_count(scan, options.get("subsample"))
        with ExitStack() as stack:
            folder = output_dir or stack.enter_context(tempfile.TemporaryDirectory(prefix="ptycho-train-"))
            payload = training_payload(scan, folder, options)
            bundle, summary = train(self._backend, payload, validation=validation, progress=progress)
        if bundle is None:  # another process of this training has the model: it wrote it
            bundle = self.load(Path(folder) / "model.safetensors")
        return bundle, summary

    def infer(
        self,
        model: Bundle | str | Path,
        scan: ScanOrFile,
        *,
        validation: NDArray[np.int64] | None = None,
        progress: Progress | None = None,
        **options: Any,
    ) -> tuple[Reconstruction, Summary]:
        """The object of a scan by a trained model.

        Args:
            model: From :meth:`train` or :meth:`load`, or the model's file.
            scan: One scan, or its file.
            validation: Indices of patterns that validate a refinement.
            progress: Called as ``progress(stage, done, total)``.
            options: Of the data, inference and execution sections; ``hold_out`` may be an array of indices.

        Raises: as :meth:`train`.
        """
        payload = inference_payload(model, scan, ".", options, load_bundle=self._backend.load)
        return infer(self._backend, payload, validation=validation, progress=progress)

    def reconstruct(
        self,
        scan: ScanOrFile,
        *,
        validation: NDArray[np.int64] | None = None,
        progress: Progress | None = None,
        **options: Any,
    ) -> tuple[Reconstruction, Summary]:
        """Object and probe of a scan jointly, without a network.

        Args:
            scan: One scan, or its file.
            validation: Indices of patterns that validate.
            progress: Called as ``progress(stage, done, total)``.
            options: Of the data, reconstruction and execution sections; ``hold_out`` may be an array of indices.

        Raises: as :meth:`train`.
        """
        settings = _settings("reconstruct", options, validation=validation is not None)
        return reconstruct(self._backend, scan, validation=validation, progress=progress, **settings)

    def evaluate(
        self,
        what: Reconstruction | ScanOrFile,
        truth: Scan | Reconstruction | str | Path | None = None,
        *,
        progress: Progress | None = None,
        **options: Any,
    ) -> Evaluation:
        """Score an image beside a truth, or a scan without one: R beside its floor, FRC of half scans, advice.

        Args:
            what: A reconstruction, with a truth; or a scan, without.
            truth: A scan with its true object, or another reconstruction. The object of a file that is named
                here counts as true, also if the file does not say so; the report then says it.
            progress: Called as ``progress(stage, done, total)``.
            options: For a scan without truth: as for :meth:`reconstruct`.

        Raises: as :meth:`train`.
        """
        if truth is not None:
            reading = _settings("evaluate beside a truth", options)
            image = what if isinstance(what, Reconstruction | str | Path) else None
            if image is None:
                raise TypeError("evaluate(image, truth): image is a Reconstruction or the path of one, found a Scan")
            given = {name: reading[name] for name in ("measurement", "nphotons")}
            return compare_with_truth(image, truth, **given)
        if isinstance(what, Reconstruction):
            raise TypeError("evaluate(image) needs a truth: evaluate(image, truth), or evaluate(scan)")
        return evaluate_scan(self._backend, what, progress=progress, **_settings("evaluate", options))

    def load(self, path: str | Path) -> Bundle:
        """Open a model's file."""
        return self._backend.load(Path(path))

    def save(self, path: str | Path, model: Bundle) -> None:
        """Write a model; what was at ``path`` is replaced in one step."""
        self._backend.save(Path(path), model)


def facade_attribute(package: str, name: str) -> Any:
    """An attribute that a backend's package provides, loaded now: importing the package loads nothing.

    Args:
        package: Such as ``"ptycho_torch"``; its module ``backend`` holds ``BACKEND``.
        name: What ``__all__`` of the package names.

    Raises:
        AttributeError: another name.
    """
    if name in _OF_DATA:
        return getattr(import_module(_OF_DATA[name]), name)
    if name == "plots":
        return _plots()
    if name in _OF_BACKEND:
        return getattr(Facade(import_module(f"{package}.backend").BACKEND), name)
    raise AttributeError(f"module {package!r} has no attribute {name!r}")


def _plots() -> ModuleType:
    """The figures, which another package draws."""
    for entry in entry_points(group="ptycho.plots"):
        loaded: ModuleType = entry.load()
        return loaded
    raise ModuleNotFoundError("figures are drawn by ptycho-cli: pip install ptycho-cli", name="ptycho_cli")


def _settings(command: str, options: Mapping[str, Any], *, validation: bool = False) -> dict[str, Any]:
    """Arguments of a reconstruction from options by name, all of which the command obeys."""
    given = dict(options)
    hold_out = given.pop("hold_out", None)
    check_names(given, [row.name for section in _SECTIONS for row in schema(section)], where=command)
    resolved = resolve(_SECTIONS, {"explicit": given})
    require_effects(command, resolved.applied, resolved.sections.values(), validation=validation)
    return {
        "config": resolved[ReconstructionConfig],
        "execution_config": resolved[ExecutionConfig],
        "measurement": resolved[DataConfig].measurement,
        "nphotons": given.get("nphotons"),
        "hold_out": hold_out,
    }
