"""Training of the learned prior (specs/prior.md, PRI-5 to PRI-7), of a tiny one."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ptycho_data.pretrained import prior_provenance, prior_weights
from ptycho_torch.pretraining import PretrainingSettings, denoising_loss, pretrain, provenance

TINY = PretrainingSettings(
    steps=300, truths=6, truth_px=40, side_px=32, batch_size=4, widths=(8, 8), learning_rate=5e-3
)
SCRIPT = Path(__file__).parents[3] / "scripts" / "pretrain.py"


def test_a_tiny_one_learns_and_comes_out_the_same_again():
    """PRI-7; and torch's own generator stays as it is."""
    before = torch.get_rng_state()
    reports = []
    weights, losses = pretrain(TINY, report=lambda step, loss: reports.append((step, loss)))
    assert torch.equal(before, torch.get_rng_state())
    assert [step for step, _ in reports] == [100, 200, 300]
    assert losses == [loss for _, loss in reports]
    assert losses[0] > losses[-1]
    assert losses[-1] < 0.9
    again, _ = pretrain(TINY)
    assert all(np.array_equal(weights[name], again[name]) for name in weights)


def test_the_loss_by_hand():
    """PRI-7: rms of what is left, over that of the noise level."""
    truth = torch.zeros((2, 4, 4), dtype=torch.complex64)
    clean = truth + torch.tensor([0.3 + 0.4j, 0.1j])[:, None, None]
    sigma = torch.tensor([0.5, 0.2])[:, None, None].expand(2, 4, 4)
    assert float(denoising_loss(clean, truth, sigma)) == pytest.approx((1.0 + 0.5) / 2)


def test_provenance_names_settings_and_versions():
    """PRI-4."""
    made = provenance(TINY, [0.9, 0.7])
    assert made["settings"]["steps"] == 300
    assert made["final_loss"] == 0.7
    assert "torch" in made["versions"]


def test_the_command_writes_a_file(tmp_path, monkeypatch, capsys):
    """``nox -s pretrain``: as the shipped file is made, a few steps of it."""
    path = tmp_path / "prior.safetensors"
    monkeypatch.setattr(sys, "argv", ["pretrain", str(path), "--steps", "1", "--truths", "2", "--seed", "7"])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    assert prior_provenance(path)["settings"]["seed"] == 7
    assert prior_weights(path).keys() == prior_weights().keys()
    assert "wrote" in capsys.readouterr().out
