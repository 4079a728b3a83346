"""Figures of scans, reconstructions and comparisons; matplotlib is imported only when something is drawn."""
