"""Train the learned prior (specs/prior.md, PRI-5 to PRI-7): ``python scripts/pretrain.py FILE``."""

from __future__ import annotations

import argparse
from pathlib import Path

from ptycho_data.pretrained import write_prior
from ptycho_torch.pretraining import PretrainingSettings, pretrain, provenance


def main() -> None:
    """Train it, and write its file."""
    parser = argparse.ArgumentParser(description="Train the learned prior.")
    parser.add_argument("file", type=Path, help="safetensors file to write")
    parser.add_argument("--steps", type=int, default=PretrainingSettings.steps, help="steps of the optimiser")
    parser.add_argument("--truths", type=int, default=PretrainingSettings.truths, help="number of objects")
    parser.add_argument("--seed", type=int, default=PretrainingSettings.seed, help="seed of every random choice")
    typed = parser.parse_args()
    settings = PretrainingSettings(steps=typed.steps, truths=typed.truths, seed=typed.seed)
    weights, losses = pretrain(settings, report=lambda step, loss: print(f"step {step}: loss {loss:.4f}", flush=True))
    write_prior(typed.file, weights, provenance(settings, losses))
    print(f"wrote {typed.file}")


if __name__ == "__main__":
    main()
