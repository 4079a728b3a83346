"""What names of arrays say: patterns, positions, set-up, units (specs/files.md, DOOR-6)."""

from __future__ import annotations

import re
from collections.abc import Iterable

_PATTERNS = {
    4: "diff3d diffraction dp dps diffamp ptychogram cbed datacube datacubes diffractions",
    3: "frames patterns pattern intensities intensity ccd eiger eiger4m eiger1m pilatus merlin maxipix jungfrau lambda",
    2: "data detector images image measurement measurements counts amplitude amplitudes array",
    -6: "mask flat flatfield dark background object obj probe psi prb weights recon thumbnail preview variance gain",
}
_POSITIONS = {
    4: "position positions pos coord coords coordinates xcoords ycoords translation translations encoder encoders "
    "points scan ppx ppy locations",
    2: "x y stage motor motors sample piezo samx samy lab translate shift shifts sx sy pseudo axis",
    -3: "start nominal error std err target demand setpoint",
    -6: "mask object obj pixel size detector beam slit roi crop centre center image index shape",
}
_PAIRS = (
    ("x", "y"),
    ("X", "Y"),
    ("horizontal", "vertical"),
    ("hor", "ver"),
    ("col", "row"),
    ("column", "row"),
    ("fast", "slow"),
)
_SUFFIX_UNITS = {
    "m": "m",
    "mm": "mm",
    "um": "um",
    "micron": "um",
    "microns": "um",
    "nm": "nm",
    "pm": "pm",
    "a": "A",
    "angstrom": "A",
    "kev": "keV",
    "ev": "eV",
    "j": "J",
    "px": "px",
    "pix": "px",
    "pixels": "px",
    "kv": "kV",
}


def tokens(name: str) -> list[str]:
    """Words of a name: ``detectorPixel_um`` is detector, pixel, um.

    >>> tokens("entry/detectorPixel_um")
    ['entry', 'detector', 'pixel', 'um']
    """
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])|[A-Z]", name)]


def leaf(key: str) -> str:
    """The last name of a path."""
    return re.split(r"[/@]", key.rstrip("/"))[-1]


def unit_in(name: str) -> str | None:
    """A unit that ends a name, after an underscore.

    >>> unit_in("ccd_pixel_um"), unit_in("lambda")
    ('um', None)
    """
    words = re.split(r"[_\s\-.]", leaf(name))
    return _SUFFIX_UNITS.get(words[-1].lower()) if len(words) > 1 else None


def pattern_score(key: str) -> int:
    """How much a name speaks for patterns."""
    return _score(key, _PATTERNS)


def position_score(key: str) -> int:
    """How much a name speaks for positions."""
    return _score(key, _POSITIONS)


def partners(key: str) -> Iterable[str]:
    """Names of the y that would belong to an x of this name."""
    parent, name = key[: len(key) - len(leaf(key))], leaf(key)
    for x, y in _PAIRS:
        for match in re.finditer(re.escape(x), name):
            yield parent + name[: match.start()] + y + name[match.end() :]


def _score(key: str, table: dict[int, str]) -> int:
    own, above = tokens(leaf(key)), tokens(key[: len(key) - len(leaf(key))])
    score = 0
    for points, words in table.items():
        known = set(words.split())
        if known & set(own) or leaf(key).lower() in known:
            score += 2 * points
        elif known & set(above):
            score += points
    return score
