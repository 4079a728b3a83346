"""Every flag of ``infer`` and ``reconstruct`` does something, observed in the results (invariant 36); real runs.

What holds for both backends is in ``imaging_flags``.
"""

from __future__ import annotations

import inspect
from pathlib import Path

import ptycho_data.batches.moduli
import ptycho_tf.loader
import pytest
from imaging_flags import InferenceFlags, ReconstructFlags, same
from ptycho_cli.options import INFER_OPTIONS, RECONSTRUCT_OPTIONS


class TestInferenceCLI(InferenceFlags):
    """Invariant 36 for ``infer``, in TensorFlow."""

    @pytest.mark.parametrize("assembly", ["groups", "canvas"])
    def test_num_workers(self, infer, monkeypatch, assembly):
        """Threads that read ahead; they change nothing."""
        module = ptycho_tf.loader if assembly == "groups" else ptycho_data.batches.moduli
        read, made = module.read_ahead, []

        def noted(*args, workers, **options):
            made.append(workers)
            return read(*args, workers=workers, **options)

        monkeypatch.setattr(module, "read_ahead", noted)
        alone, helped = (infer("--assembly", assembly, *words) for words in ((), ("--num-workers", "2")))
        assert same(alone, helped)
        assert len(made) >= 2
        assert made == [0] * (len(made) // 2) + [2] * (len(made) // 2)  # one stream per level


class TestReconstructCLI(ReconstructFlags):
    """Invariant 36 for ``reconstruct``, in TensorFlow."""


def test_no_flag_is_untested():
    """Every option of both commands is here or among what holds for both backends."""
    text = Path(__file__).read_text() + Path(inspect.getfile(InferenceFlags)).read_text()
    unseen = {row.flag for row in (*INFER_OPTIONS, *RECONSTRUCT_OPTIONS) if f'"{row.flag}"' not in text}
    assert unseen == set()
