"""Files to records and back: one module per format, one registry, detection by content."""

from ptycho_data.files.combine import combine_scans
from ptycho_data.files.door.corrected_scan import turned_scan
from ptycho_data.files.door.imported import Imported
from ptycho_data.files.formats.mapping_writer import write_mapping
from ptycho_data.files.formats.ptychodus_writer import write_product
from ptycho_data.files.formats.reconstruction import is_reconstruction, read_reconstruction
from ptycho_data.files.memory import scan_from_arrays
from ptycho_data.files.reconstruction_formats import (
    RECONSTRUCTION_FORMATS,
    geometry_of,
    pattern_indexes,
    require_reconstruction_formats,
    set_up_of,
    write_reconstruction,
)
from ptycho_data.files.registry import FORMATS, format_of, import_scan, read_scan, write_scan
from ptycho_data.files.sources import file_sha256

__all__ = [
    "FORMATS",
    "RECONSTRUCTION_FORMATS",
    "Imported",
    "combine_scans",
    "file_sha256",
    "format_of",
    "geometry_of",
    "import_scan",
    "is_reconstruction",
    "pattern_indexes",
    "read_reconstruction",
    "read_scan",
    "require_reconstruction_formats",
    "scan_from_arrays",
    "set_up_of",
    "turned_scan",
    "write_mapping",
    "write_product",
    "write_reconstruction",
    "write_scan",
]
