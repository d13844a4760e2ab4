"""What a nightly version changed: which blocks were computed and why, and what classes gained and lost."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.report.markup import Child, Markup, element
from pipeline.report.pieces import facts, note, section, table
from pipeline.report.subject import Subject
from pipeline.report.wording import number, percent, plural

MOST_SCENES = 50
MOST_TRANSITIONS = 20

REASONS = {
    "first": "the first version: there was nothing to copy from",
    "model": "another model",
    "settings": "other settings",
    "layout": "the previous mosaic's objects do not fit into these arrays",
    "scenes": "other scenes show in them",
    "description": "their scenes are described otherwise",
    "new": "the previous mosaic did not have them",
    "damaged": "their copies were missing or damaged",
    "earlier": "computed for this version before, and still right",
}


def change_section(subject: Subject) -> Markup | None:
    """The section; None for a run that is no nightly version."""
    told = subject.run.report.get("incremental")
    if told is None:
        return None
    return section(
        "changes",
        "What changed",
        facts(_figures(told), "facts row"),
        _reasons(told),
        _scenes(told["scenes"]),
        *_classes(subject, told.get("changes")),
    )


def _figures(told: Mapping[str, Any]) -> list[tuple[str, Child]]:
    pairs: list[tuple[str, Child]] = [
        ("version", told["version"]),
        ("previous mosaic", told["previous"] or "none"),
        ("blocks copied", f"{told['copied']:,}"),
        ("blocks computed", f"{told['recomputed']:,}"),
    ]
    changes = told.get("changes")
    if changes and changes["pixels_compared"]:
        pairs.append(("pixels changed", f"{changes['pixels_changed']:,}"))
    return pairs


def _reasons(told: Mapping[str, Any]) -> Markup:
    if not told["reasons"]:
        return element("p", "Every block is as it was.")
    entries = [
        element("li", plural(count, "block"), ": ", REASONS.get(kind, kind))
        for kind, count in sorted(told["reasons"].items(), key=lambda item: -item[1])
    ]
    fields = f"Different in all blocks: {', '.join(told['fields'])}." if told["fields"] else None
    return element("div", element("h3", "Why blocks were computed"), element("ul", entries), note(fields))


def _scenes(scenes: Sequence[Mapping[str, Any]]) -> Markup | None:
    if not scenes:
        return None
    rows = [(one["url"], one["change"], f"{one['blocks']:,}") for one in scenes[:MOST_SCENES]]
    left_out = len(scenes) - len(rows)
    return element(
        "div",
        table("Scenes that differ", ("Scene", "What became of it", "Blocks"), rows, text_columns=2),
        note(f"{left_out:,} more are in report.json." if left_out else None),
    )


def _classes(subject: Subject, changes: Mapping[str, Any] | None) -> list[Markup | None]:
    if changes is None:
        return [note("Classes were not compared with an earlier mosaic.")]
    unit, pixel_m2 = subject.area_unit, _pixel_m2(subject)
    rows = [
        (
            one["name"],
            *(f"{one[key]:,}" for key in ("before", "after", "gained", "lost")),
            f"{one['after'] - one['before']:+,}",
            *([_signed((one["after"] - one["before"]) * pixel_m2 / unit.square_metres)] if unit else []),
        )
        for one in changes["classes"]
        if one["before"] or one["after"]
    ]
    headers = ["Class", "Before", "After", "Gained", "Lost", "Change", *([unit.sign] if unit else [])]
    moves = [
        (
            f"{one['from']} → {one['to']}",
            f"{one['pixels']:,}",
            percent(one["pixels"] / changes["pixels_changed"]),
        )
        for one in changes["transitions"][:MOST_TRANSITIONS]
    ]
    missing = len(changes["not_compared"])
    return [
        table(f"Pixels of every class since {changes['previous']}", headers, rows),
        table("What became what", ("From → to", "Pixels", "Share of changes"), moves) if moves else None,
        note(f"{plural(missing, 'block')} could not be compared; see report.json." if missing else None),
        note("Areas are taken with the mean size of this mosaic's pixels." if unit else None),
    ]


def _pixel_m2(subject: Subject) -> float:
    pixels = sum(one.pixels for one in subject.classes)
    return sum(one.area_m2 or 0.0 for one in subject.classes) / max(1, pixels)


def _signed(value: float) -> str:
    return f"{'+' if value > 0 else '−' if value < 0 else ''}{number(abs(value))}"
