"""The model ``pretrained``: the learned prior alone, which images any scan without a training (IMG-9)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray
from ptycho_contracts.config import DataConfig, ModelConfig
from ptycho_contracts.records import Scan

from ptycho_data.bundle_file import Bundle
from ptycho_data.fitting.probes import normalised_probe
from ptycho_data.pretrained import prior_provenance, prior_weights


@dataclass(frozen=True, eq=False)
class PretrainedModel:
    """The learned prior as a model (``ptycho_data.workflows.backend.Model``); its probe is that of the scan.

    Attributes:
        config: Side of the patterns and number of modes.
        probe: (K, N, N) of unit energy.
    """

    config: ModelConfig
    probe: NDArray[np.complex64]
    infers_whole_canvas: bool = True

    def probe_array(self) -> NDArray[np.complex64]:
        """(K, N, N) probe of unit energy."""
        return self.probe

    def weight_arrays(self) -> Mapping[str, NDArray[np.float32]]:
        """Weights of the prior by name."""
        return prior_weights()

    def with_probe(self, probe: NDArray[np.complex64]) -> Self:
        """The same with another probe of unit energy."""
        return replace(self, probe=probe)


def pretrained_bundle(scan: Scan) -> Bundle:
    """The bundle for a scan; the probe of unit energy that it holds is only the scan's given one, or flat."""
    probe = np.ones((1, scan.N, scan.N), np.complex64) if scan.probe is None else scan.probe
    config = ModelConfig(data=DataConfig(N=scan.N, gridsize=1), modes=len(probe))
    return Bundle(PretrainedModel(config, normalised_probe(probe, 1.0)), math.nan, {"prior": prior_provenance()})
