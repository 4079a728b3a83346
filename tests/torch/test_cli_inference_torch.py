"""Every flag of ``infer`` and ``reconstruct`` does something, observed in the results (invariant 36); real runs.

What holds for both backends is in ``imaging_flags``.
"""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path

from imaging_flags import EvaluateFlags, InferenceFlags, ReconstructFlags, same
from ptycho_cli.options import INFER_OPTIONS, RECONSTRUCT_OPTIONS
from ptycho_data.files import read_scan, write_scan


class TestInferenceCLI(InferenceFlags):
    """Invariant 36 for ``infer``, in PyTorch."""

    def test_num_workers(self, infer, monkeypatch):
        """Worker processes of the loader; they change nothing."""
        import ptycho_torch.loader

        made = []

        class Watched(ptycho_torch.loader.DataLoader):
            def __init__(self, *args, **kwargs):
                super().__init__(*args, **kwargs)
                made.append(self)

        monkeypatch.setattr(ptycho_torch.loader, "DataLoader", Watched)
        alone, helped = infer("--assembly", "groups"), infer("--assembly", "groups", "--num-workers", "1")
        assert same(alone, helped)
        assert [loader.num_workers for loader in made] == [0, 1]


class TestReconstructCLI(ReconstructFlags):
    """Invariant 36 for ``reconstruct``, in PyTorch."""

    def test_a_scan_without_probe(self, reconstruct, other_scan_file, tmp_path):
        bare = replace(read_scan(other_scan_file), probe=None, object_truth=None, object_origin_yx_px=None)
        write_scan(tmp_path / "bare.npz", bare)
        summary = reconstruct(data=tmp_path / "bare.npz").summary
        assert len(summary["probe"]["search"]["losses"]) > 10
        assert summary["probe"]["overlap_with_file"] is None
        assert reconstruct().summary["probe"]["search"] is None


class TestEvaluateCLI(EvaluateFlags):
    """CLI-16 to CLI-19 with a real joint reconstruction, in PyTorch."""


def test_no_flag_is_untested():
    """Every option of both commands is here or among what holds for both backends."""
    text = Path(__file__).read_text() + Path(inspect.getfile(InferenceFlags)).read_text()
    unseen = {row.flag for row in (*INFER_OPTIONS, *RECONSTRUCT_OPTIONS) if f'"{row.flag}"' not in text}
    assert unseen == set()
