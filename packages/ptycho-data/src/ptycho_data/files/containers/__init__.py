"""Safe reading of untrusted containers of arrays: HDF5, zip archives, ``.npy`` (specs/files.md)."""
