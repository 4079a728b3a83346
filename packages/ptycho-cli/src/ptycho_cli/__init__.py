"""Commands of the ptycho suite: train, infer, reconstruct, evaluate, simulate, inspect, convert, demo."""
