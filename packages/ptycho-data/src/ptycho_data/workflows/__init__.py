"""Train, infer, reconstruct and evaluate: once, for every backend (specs/training.md)."""
