"""Containers of arrays read with suspicion: HDF5, zip archives, ``.npy`` (specs/files.md)."""
