"""Whether a PNG file is whole: GDAL reads one that was cut short without a word, and invents the rest.

Other formats need no such look: GDAL refuses to open them, or to read what is not there.
"""

from pathlib import Path

from pipeline.storage import Folder, is_local, is_signed, split_url

TAIL_BYTES = 4096
"""Where the end mark is, though some programs write a little after it."""

END_MARK = b"IEND\xaeB`\x82"
"""The last chunk's name and checksum; it is always empty."""


def is_cut_short(url: str) -> bool:
    """Whether the PNG at a normalised URL lacks its end; of a signed address that cannot be told."""
    if is_signed(url):
        return False
    return END_MARK not in (_tail_of_file(Path(url)) if is_local(url) else _tail_of_object(url))


def _tail_of_file(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        return file.read()


def _tail_of_object(url: str) -> bytes:
    parent, name = split_url(url)
    folder = Folder(parent)
    found = folder.head(name)
    size_bytes = found.size_bytes if found else 0
    length = min(TAIL_BYTES, size_bytes)
    return folder.read_range(name, size_bytes - length, length) if length else b""
