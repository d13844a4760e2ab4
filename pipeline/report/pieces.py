"""Pieces that the sections of a page share: sections, tables, figures, lists of facts."""

from collections.abc import Sequence

from pipeline.report.markup import Child, Markup, element

Cell = Child


def section(anchor: str, heading: str, *children: Child, lead: Child = None) -> Markup:
    """A part of a page with a heading that links can reach."""
    return element(
        "section",
        element("h2", heading, id=f"{anchor}-heading"),
        element("p", lead, class_="lead") if lead is not None else None,
        *children,
        id=anchor,
        aria_labelledby=f"{anchor}-heading",
    )


def table(
    caption: str, headers: Sequence[str], rows: Sequence[Sequence[Cell]], *, text_columns: int = 1
) -> Markup:
    """A table that scrolls by itself where the page is narrow.

    Args:
        caption: What it shows.
        headers: One a column.
        rows: The first cell of each is its header.
        text_columns: So many columns from the left are words; the others are numbers, set to the right.
    """

    def style(column: int) -> str | None:
        return None if column < text_columns else "number"

    head = [element("th", text, scope="col", class_=style(column)) for column, text in enumerate(headers)]
    body = [
        element(
            "tr",
            element("th", row[0], scope="row"),
            [element("td", cell, class_=style(column)) for column, cell in enumerate(row[1:], start=1)],
        )
        for row in rows
    ]
    return element(
        "div",
        element(
            "table",
            element("caption", caption),
            element("thead", element("tr", head)),
            element("tbody", body),
        ),
        class_="scroll",
        role="region",
        aria_label=caption,
        tabindex=0,
    )


def facts(pairs: Sequence[tuple[str, Child]], class_: str = "facts") -> Markup:
    """Names and values."""
    return element(
        "dl",
        [element("div", element("dt", name), element("dd", value)) for name, value in pairs],
        class_=class_,
    )


def code(text: str, label: str) -> Markup:
    """A command to copy: one click selects all of it, the keyboard reaches and scrolls it."""
    return element("pre", element("code", text), tabindex=0, role="region", aria_label=label)


def swatch(color: str) -> Markup:
    """A small square of a colour that was checked to be one."""
    return element("span", class_="swatch", style=f"background:{color}", aria_hidden="true")


def note(text: str | None) -> Markup | None:
    """A sentence in small type, where there is one."""
    return element("p", text, class_="note") if text else None
