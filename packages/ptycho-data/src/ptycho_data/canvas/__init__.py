"""Object pixels: where patterns lie on a canvas, patches to a canvas and back (specs/grouping.md, GEO, STI)."""

from ptycho_data.canvas.geometry import CanvasGeometry, canvas_geometry, group_canvas_shape
from ptycho_data.canvas.stitching import Stitcher, extract_patches

__all__ = ["CanvasGeometry", "Stitcher", "canvas_geometry", "extract_patches", "group_canvas_shape"]
