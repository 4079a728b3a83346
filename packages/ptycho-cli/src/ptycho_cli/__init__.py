"""Commands of the ptycho suite: train, infer, reconstruct, simulate, inspect, demo."""
