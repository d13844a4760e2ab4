"""A plan for people to read before they pay for it."""

from collections.abc import Mapping
from typing import Any

UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def plan_table(document: Mapping[str, Any]) -> str:
    """The rows of ``--plan``."""
    crops, memory, choices = document["crops"], document["memory_per_worker"], document["choices"]
    workers, planes = document["workers"], document.get("planes")
    stack = [("planes", f"{planes['t']} t × {planes['z']} z")] if planes else []
    rows = [
        ("source", f"{document['source']['height']} × {document['source']['width']} px"),
        ("mosaic", f"{document['grid']['height']} × {document['grid']['width']} px → {document['output']}"),
        *stack,
        (
            "blocks",
            f"{document['blocks']} of {document['block']['size_px']} px, "
            f"{document['skipped']['blocks_outside_region']} outside the region skipped",
        ),
        (
            "crops",
            f"{crops['computed']:,} computed, {crops['unique']:,} unique, ratio {crops['ratio']:.3f}",
        ),
        (
            "network",
            f"{choices['precision']}, batch {choices['batch']}, "
            f"{'compiled' if choices['compile'] else 'not compiled'}, on {choices['device']}",
        ),
        *_reasons(choices, document.get("reasons", {})),
        ("work", f"{document['multiply_adds'] / 1e12:,.2f} T multiply-adds"),
        ("workers", f"{workers['count']} × {workers['threads']} threads, {workers['gpus']:g} GPUs each"),
        (
            "memory",
            f"{in_units(memory['total_bytes'])} projected per worker, "
            f"limit {in_units(document['memory_limit_bytes'])}",
        ),
        (
            "to read",
            f"{in_units(document['read_bytes'])} uncompressed, "
            f"{in_units(document['read_at_least_bytes'])} without overlap",
        ),
        ("to write", f"at most {in_units(document['output_at_most_bytes'])}"),
        ("time", _time(document["estimated_seconds"])),
        ("fingerprint", document["fingerprint"]),
        *_night(document.get("incremental")),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _reasons(choices: Mapping[str, Any], reasons: Mapping[str, str]) -> list[tuple[str, str]]:
    """Why the network runs so; plans of older runs do not say."""
    told = {"precision": choices["precision"], "compile": "yes" if choices["compile"] else "no"}
    return [(name, f"{told[name]}; {reasons[name]}") for name in told if name in reasons]


def _night(told: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """Of a nightly run, how much of all that would be done tonight."""
    if told is None:
        return []
    if told["unchanged"]:
        return [("tonight", f"nothing: {told['version']} is published, and nothing changed since")]
    reasons = ", ".join(f"{count} {kind}" for kind, count in told["reasons"].items())
    computed = f"{told['recomputed']} blocks computed{f' ({reasons})' if reasons else ''}"
    source = f" from {told['previous']}" if told["previous"] else ""
    return [("tonight", f"{computed}, {told['copied']} copied{source} → {told['version']}")]


def in_units(size_bytes: float) -> str:
    """Bytes as people say them."""
    unit = 0
    while size_bytes >= 1024 and unit < len(UNITS) - 1:
        size_bytes /= 1024
        unit += 1
    return f"{size_bytes:.{0 if unit == 0 else 2}f} {UNITS[unit]}"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "not known before a block of this run was computed (jobs/benchmark.py measures the pace)"
    return f"about {seconds / 60:.1f} min"
