"""File formats of scans and reconstructions, one module a format (specs/files.md)."""
