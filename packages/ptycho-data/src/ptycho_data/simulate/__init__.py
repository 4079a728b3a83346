"""Simulated scans with known truth: objects, probes, positions, photon noise (specs/simulation.md)."""

from ptycho_data.simulate.counting import far_field_counts, noiseless_counts, simulate_scan
from ptycho_data.simulate.from_scan import scans_from
from ptycho_data.simulate.objects import OBJECTS, dead_leaves, lines, random_field, siemens_star
from ptycho_data.simulate.probes import PROBES, defocused_disc, from_array, measured, zone_plate
from ptycho_data.simulate.recipes import simulate
from ptycho_data.simulate.scans import SCANS, jittered, place, raster, spiral

__all__ = [
    "OBJECTS",
    "PROBES",
    "SCANS",
    "dead_leaves",
    "defocused_disc",
    "far_field_counts",
    "from_array",
    "jittered",
    "lines",
    "measured",
    "noiseless_counts",
    "place",
    "random_field",
    "raster",
    "scans_from",
    "siemens_star",
    "simulate",
    "simulate_scan",
    "spiral",
    "zone_plate",
]
