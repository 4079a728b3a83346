"""Ptychography networks and joint descent in TensorFlow: the twin of ptycho-torch, for the same bundles."""
