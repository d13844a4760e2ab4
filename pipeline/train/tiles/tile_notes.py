"""What somebody wrote down of tiles: a CSV with their ids and any of group, split and date."""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass, replace

from pipeline.errors import SettingsError
from pipeline.storage import Folder, redact
from pipeline.train.tiles.catalog import Pair

COLUMNS = ("group", "split", "date")


@dataclass(frozen=True)
class Note:
    """A line of the file; None for what it leaves open."""

    group: str | None = None
    split: str | None = None
    date: str | None = None


def read_notes(folder: Folder, key: str) -> dict[str, Note]:
    """Notes by tile; none where there is no file, or one that says nothing of these things.

    Args:
        folder: Of the tiles.
        key: The file's path below.
    """
    try:
        data = folder.read(key)
    except FileNotFoundError:
        return {}
    try:
        lines = csv.DictReader(io.StringIO(data.decode("utf-8-sig")), strict=True)
        told = [name for name in COLUMNS if name in (lines.fieldnames or ())]
        if not told:
            return {}
        if "id" not in (lines.fieldnames or ()):
            raise SettingsError(
                f"{redact(folder.url)}/{key} must have a column id beside {', '.join(told)}, "
                f"got {', '.join(lines.fieldnames or ())}"
            )
        return {line["id"]: Note(**{name: line[name] or None for name in told}) for line in lines}
    except (csv.Error, UnicodeDecodeError) as error:
        raise SettingsError(f"{redact(folder.url)}/{key} must be CSV in UTF-8: {error}") from error


def with_notes(pair: Pair, notes: Mapping[str, Note]) -> Pair:
    """A pair with what is written of it; what it says itself gives way."""
    note = notes.get(pair.id)
    if note is None:
        return pair
    return replace(
        pair,
        group=note.group or pair.group,
        split=note.split or pair.split,
        date=note.date or pair.date,
    )
