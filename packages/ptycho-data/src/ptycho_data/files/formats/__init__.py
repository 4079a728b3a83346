"""File formats of scans and reconstructions, one module per format (specs/files.md)."""
