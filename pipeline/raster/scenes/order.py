"""Which scene lies on top: the first of the list does."""

from collections.abc import Callable, Sequence

from pipeline.errors import SourceError
from pipeline.raster.scenes.entry import Entry
from pipeline.raster.scenes.scene import Order

NAMED_AT_MOST = 5


def in_order(entries: Sequence[Entry], order: Order) -> tuple[Entry, ...]:
    """Scenes, topmost first; among equals the given order stays."""
    if order == "newest":
        _refuse_without(entries, lambda entry: entry.taken, order, "a time")
        return tuple(sorted(entries, key=lambda entry: entry.taken, reverse=True))  # type: ignore[arg-type, return-value]
    if order == "least_cloud":
        _refuse_without(entries, lambda entry: entry.cloud_cover, order, "a cloud cover")
        return tuple(sorted(entries, key=lambda entry: entry.cloud_cover))  # type: ignore[arg-type, return-value]
    return tuple(entries)


def _refuse_without(
    entries: Sequence[Entry], value_of: Callable[[Entry], object], order: Order, what: str
) -> None:
    lacking = [entry.name for entry in entries if value_of(entry) is None]
    if lacking:
        raise SourceError(
            f"source.order: {order} needs {what} of every scene, but {some_of(lacking)} of {len(entries)} "
            "have none; give source.index with columns datetime and cloud_cover, or STAC items"
        )


def some_of(names: Sequence[str]) -> str:
    """A list of names, cut where it gets long."""
    shown = ", ".join(names[:NAMED_AT_MOST])
    more = len(names) - NAMED_AT_MOST
    return f"{shown} and {more} more" if more > 0 else shown
