"""Object pixels: where patterns lie on a canvas, patches to a canvas and back (specs/grouping.md, GEO, STI)."""

from ptycho_data.canvas.geometry import CanvasGeometry, canvas_geometry, group_canvas_shape
from ptycho_data.canvas.illumination import illumination, sparse_subsets
from ptycho_data.canvas.levels import central_part, coarse_sides, level_probe, on_level, photons_per_pixel
from ptycho_data.canvas.sites import Sites, last_start_yx, scan_sites
from ptycho_data.canvas.stitching import Stitcher, extract_patches

__all__ = [
    "CanvasGeometry",
    "Sites",
    "Stitcher",
    "canvas_geometry",
    "central_part",
    "coarse_sides",
    "extract_patches",
    "group_canvas_shape",
    "illumination",
    "last_start_yx",
    "level_probe",
    "on_level",
    "photons_per_pixel",
    "scan_sites",
    "sparse_subsets",
]
