"""Names of classes as GDAL and QGIS read them beside a file: categories and a table, in ``.aux.xml``.

GeoTIFF has no place for them inside; colours and nodata are in the file itself.
"""

from contextlib import suppress
from pathlib import Path
from xml.etree import ElementTree as ET

from pipeline.raster.mosaic import MosaicLayout
from pipeline.storage import Folder, is_local, split_url

SUFFIX = ".aux.xml"

INTEGER, TEXT = "0", "2"
COLUMNS = (
    ("Value", INTEGER, "5"),
    ("Class", TEXT, "2"),
    ("Red", INTEGER, "6"),
    ("Green", INTEGER, "7"),
    ("Blue", INTEGER, "8"),
)
"""Name, type and use of the table's columns, in GDAL's numbers."""


def class_table(layout: MosaicLayout) -> bytes:
    """The classes of a mosaic as GDAL's persistent auxiliary metadata."""
    root = ET.Element("PAMDataset")
    band = ET.SubElement(root, "PAMRasterBand", band="1")
    categories = ET.SubElement(band, "CategoryNames")
    for name in layout.class_names:
        ET.SubElement(categories, "Category").text = name
    table = ET.SubElement(band, "GDALRasterAttributeTable", tableType="thematic")
    for index, (name, kind, usage) in enumerate(COLUMNS):
        column = ET.SubElement(table, "FieldDefn", index=str(index))
        for tag, text in (("Name", name), ("Type", kind), ("Usage", usage)):
            ET.SubElement(column, tag).text = text
    for index, (name, color) in enumerate(zip(layout.class_names, layout.class_colors, strict=True)):
        row = ET.SubElement(table, "Row", index=str(index))
        for value in (index, name, *bytes.fromhex(color.removeprefix("#"))):
            ET.SubElement(row, "F").text = str(value)
    ET.indent(root)
    return ET.tostring(root, encoding="utf-8")


def replace_sidecar(file_url: str, table: bytes | None) -> None:
    """Write the names beside a file; None removes those of another one that stood there."""
    parent, name = split_url(file_url)
    if table is not None:
        Folder(parent).write(name + SUFFIX, table)
    elif is_local(file_url):
        with suppress(FileNotFoundError):
            Path(file_url + SUFFIX).unlink()
    else:
        Folder(parent).delete([name + SUFFIX])
