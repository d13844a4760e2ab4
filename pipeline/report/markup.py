"""HTML and SVG that cannot be injected into: text is escaped unless it was made here.

Class names, paths and error messages are other people's words; nothing of theirs reaches a page unescaped.
"""

from collections.abc import Iterable
from html import escape

VOID = frozenset({"br", "img", "meta", "link", "hr"})
"""Elements that have no end tag in HTML."""


class Markup(str):
    """Text that is markup already."""

    __slots__ = ()


Child = str | int | float | None | Iterable["Child"]
"""What an element may hold: markup as it is, anything else as text, None as nothing."""


def element(tag: str, *children: Child, **attributes: str | float | bool | None) -> Markup:
    """One element.

    Args:
        tag: Its name.
        children: What it holds.
        attributes: A trailing underscore is dropped (``class_``), others become hyphens (``aria_label``);
            None and False leave the attribute out, True gives it without a value.
    """
    opening = tag + "".join(_attribute(name, value) for name, value in attributes.items())
    if tag in VOID:
        return Markup(f"<{opening}>")
    return Markup(f"<{opening}>{join(*children)}</{tag}>")


def join(*children: Child) -> Markup:
    """Children one after the other, without an element around them."""
    return Markup("".join(_render(child) for child in children))


def _attribute(name: str, value: str | float | bool | None) -> str:
    name = name.rstrip("_").replace("_", "-")
    if value is None or value is False:
        return ""
    return f" {name}" if value is True else f' {name}="{escape(str(value))}"'


def _render(child: Child) -> str:
    if child is None:
        return ""
    if isinstance(child, Markup):
        return child
    if isinstance(child, str | int | float):
        return escape(str(child))
    return "".join(_render(one) for one in child)
