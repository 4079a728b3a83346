"""What the numbers in a file mean: units, optics, zero frequency, plausibility (specs/files.md)."""
