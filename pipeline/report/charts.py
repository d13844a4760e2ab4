"""Charts as inline SVG. Lengths are percentages, so that they fit any page and their text keeps its size."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.report.markup import Markup, element
from pipeline.report.pictures import safe_color
from pipeline.report.wording import shortened

ROW_PX = 46
BAR_PX = 12
LABEL_CHARACTERS = 26


@dataclass(frozen=True)
class Bar:
    """One bar: what it is called, how long it is, what is said at its end."""

    name: str
    value: float
    text: str
    color: str


def bar_chart(bars: Sequence[Bar], *, title: str) -> Markup:
    """Bars one below the other, the longest over the whole width."""
    longest = max((bar.value for bar in bars), default=0.0) or 1.0
    rows = [_bar_row(bar, index * ROW_PX, 100 * bar.value / longest) for index, bar in enumerate(bars)]
    return element(
        "svg",
        element("title", title),
        rows,
        class_="chart",
        role="img",
        width="100%",
        height=len(bars) * ROW_PX,
    )


def _bar_row(bar: Bar, top: int, width_percent: float) -> Markup:
    bar_top = top + 22
    return element(
        "g",
        element("title", f"{bar.name}: {bar.text}"),
        element("text", shortened(bar.name, LABEL_CHARACTERS), x=0, y=top + 15, class_="label"),
        element("text", bar.text, x="100%", y=top + 15, text_anchor="end", class_="value"),
        element("rect", x=0, y=bar_top, width="100%", height=BAR_PX, rx=3, class_="track"),
        element(
            "rect",
            x=0,
            y=bar_top,
            width=f"{width_percent:.3f}%",
            height=BAR_PX,
            rx=3,
            fill=safe_color(bar.color),
            class_="bar",
        ),
    )


@dataclass(frozen=True)
class Part:
    """A part of a whole, drawn in the style of a class of the page."""

    name: str
    value: float
    css_class: str


def stacked_bar(parts: Sequence[Part], *, title: str) -> Markup:
    """Parts of a whole, side by side."""
    total = sum(part.value for part in parts) or 1.0
    drawn, left = [], 0.0
    for part in parts:
        share = 100 * part.value / total
        name = element("title", f"{part.name}: {share:.1f} %")
        drawn.append(
            element(
                "rect",
                name,
                x=f"{left:.3f}%",
                y=0,
                width=f"{share:.3f}%",
                height=20,
                class_=part.css_class,
            )
        )
        left += share
    return element("svg", element("title", title), drawn, class_="chart", role="img", width="100%", height=20)


def bullet(measured: float, projected: float, limit: float, *, title: str) -> Markup:
    """What was measured as a bar, what was projected behind it, the limit as a line."""
    scale = 100 / (1.04 * max(measured, projected, limit, 1e-9))
    return element(
        "svg",
        element("title", title),
        element("rect", x=0, y=4, width="100%", height=24, rx=3, class_="track"),
        element("rect", x=0, y=4, width=f"{projected * scale:.3f}%", height=24, rx=3, class_="projected"),
        element("rect", x=0, y=11, width=f"{measured * scale:.3f}%", height=10, rx=2, class_="measured"),
        element("rect", x=f"{limit * scale:.3f}%", y=0, width=2, height=32, class_="limit"),
        class_="chart",
        role="img",
        width="100%",
        height=32,
    )
