"""What colour a satellite's band is: "B04" of Sentinel-2 is "red". Pure.

The names are those of STAC's ``eo`` extension. One spelling means different bands on different satellites, so
a table is used only where the platform or the file's name says which; a bare ``B04``, with its zero, is
Sentinel-2's spelling. Older Sentinel-2 software says ``B4``, as Landsat does for another band: no table then.
"""

import re
from collections.abc import Mapping

SENTINEL_2 = {
    "B01": "coastal",
    "B02": "blue",
    "B03": "green",
    "B04": "red",
    "B05": "rededge071",
    "B06": "rededge075",
    "B07": "rededge078",
    "B08": "nir",
    "B8A": "nir08",
    "B09": "nir09",
    "B10": "cirrus",
    "B11": "swir16",
    "B12": "swir22",
}
LANDSAT_8 = {
    "B1": "coastal",
    "B2": "blue",
    "B3": "green",
    "B4": "red",
    "B5": "nir",
    "B6": "swir16",
    "B7": "swir22",
    "B8": "pan",
    "B9": "cirrus",
    "B10": "lwir11",
    "B11": "lwir12",
}
LANDSAT_5 = {
    "B1": "blue",
    "B2": "green",
    "B3": "red",
    "B4": "nir",
    "B5": "swir16",
    "B6": "lwir",
    "B7": "swir22",
    "B8": "pan",
}

TABLES: tuple[tuple[str, Mapping[str, str]], ...] = (
    (r"HLS\.?L30|landsat-[89]|(^|[^A-Z0-9])L[COT]0[89]_", LANDSAT_8),
    (r"landsat-[4-7]|(^|[^A-Z0-9])L[ETM]0[4-7]_", LANDSAT_5),
    (r"HLS\.?S30|sentinel-?2|(^|[^A-Z0-9])S2[A-D]([^A-Z0-9]|$)", SENTINEL_2),
)


def common_names(band: str | None, hint: str = "") -> tuple[str, ...]:
    """Names that a band answers to besides its own.

    Args:
        band: Its own name.
        hint: What tells the satellite: a platform or a file's name.
    """
    if not band:
        return ()
    name = band.strip().upper().removeprefix("SR_").removeprefix("ST_")
    for pattern, table in TABLES:
        if re.search(pattern, hint, re.IGNORECASE):
            unpadded = re.sub(r"^B0(?=\d)", "B", name)
            found = table.get(name) or table.get(unpadded)
            return (found,) if found else ()
    found = SENTINEL_2.get(name)
    return (found,) if found and band.strip().upper() == name else ()
