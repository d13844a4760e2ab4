"""Numbers as people read them: one rule for every page."""

import math
from datetime import UTC, datetime

NARROW_SPACE = "\u202f"
"""Between a number and its unit, so that no line breaks there."""

UNKNOWN = "–"


def number(value: float, digits: int = 3) -> str:
    """A number with so many significant digits, thousands grouped, never as a power of ten."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else UNKNOWN
    decimals = digits - 1 - math.floor(math.log10(abs(value)))
    return f"{value:,.{decimals}f}" if decimals > 0 else f"{round(value):,}"


def with_unit(value: float, unit: str, digits: int = 3) -> str:
    """A number and its unit."""
    return f"{number(value, digits)}{NARROW_SPACE}{unit}"


def size(size_bytes: float) -> str:
    """Bytes in binary units."""
    units = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
    power = 0
    while size_bytes >= 1024 and power < len(units) - 1:
        size_bytes /= 1024
        power += 1
    return with_unit(size_bytes, units[power])


def percent(share: float) -> str:
    """A share of 1; what is not nothing never reads as nothing."""
    if 0 < share < 0.001:
        return f"<{NARROW_SPACE}0.1{NARROW_SPACE}%"
    return f"{100 * share:.1f}{NARROW_SPACE}%"


def duration(seconds: float) -> str:
    """Seconds in the two largest units that matter."""
    if seconds < 60:
        return with_unit(seconds, "s")
    if seconds < 3600:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes}{NARROW_SPACE}min {rest:02d}{NARROW_SPACE}s"
    hours, minutes = divmod(round(seconds / 60), 60)
    if hours < 48:
        return f"{hours}{NARROW_SPACE}h {minutes:02d}{NARROW_SPACE}min"
    days, hours = divmod(hours, 24)
    return f"{days}{NARROW_SPACE}d {hours:02d}{NARROW_SPACE}h"


def moment(epoch_s: float) -> str:
    """A point in time, in UTC: the reader's place is not known."""
    return datetime.fromtimestamp(epoch_s, UTC).strftime("%d %B %Y, %H:%M UTC").lstrip("0")


def plural(count: int, noun: str, nouns: str | None = None) -> str:
    """``1 block``, ``2,000 blocks``."""
    return f"{count:,} {noun if count == 1 else nouns or f'{noun}s'}"


def shortened(text: str, length: int) -> str:
    """Text of at most so many characters."""
    return text if len(text) <= length else f"{text[: length - 1].rstrip()}…"
