"""The reliability diagram: how often pixels of each confidence are right."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.report.markup import Child, Markup, element
from pipeline.report.pieces import section, table
from pipeline.report.wording import UNKNOWN, percent

SIDE_PX = 360
MARGIN_PX = 44
TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)


def reliability_section(reliability: Mapping[str, Any], names: Sequence[str]) -> Markup:
    """Diagram, calibration errors and a row for every class."""
    if not reliability["pixels"]:
        return section("reliability", "Confidence", element("p", "No pixel has a label yet."))
    rows: list[list[Child]] = [
        [name, f"{one['pixels']:,}", *[_percent(one[key]) for key in _FIGURES]]
        for name, one in ((name, reliability["classes"][name]) for name in names)
        if one["pixels"]
    ]
    rows.append(["All", f"{reliability['pixels']:,}", *[_percent(reliability[key]) for key in _FIGURES]])
    headers = ["Predicted class", "Pixels", "Mean confidence", "Right", "ECE", "MCE"]
    over = reliability["mean_confidence"] - reliability["accuracy"]
    verdict = "surer than it is right" if over > 0 else "less sure than it is right"
    return section(
        "reliability",
        "Is it as right as it is sure?",
        element(
            "p",
            f"On average the mosaic is {percent(abs(over))} {verdict}. Each bar is a bin of confidence; it "
            "reaches up to the share of its pixels that is right, the line marks where it should reach.",
            class_="lead",
        ),
        diagram(reliability),
        table("Calibration by predicted class", headers, rows),
    )


_FIGURES = ("mean_confidence", "accuracy", "ece", "mce")


def diagram(reliability: Mapping[str, Any]) -> Markup:
    """Bars of accuracy over confidence, below them how many pixels each bin has."""
    bins = int(reliability["bins"])
    most = max(reliability["bin_pixels"]) or 1
    width = SIDE_PX / bins
    drawn: list[Markup] = []
    for index in range(bins):
        accuracy, pixels = reliability["bin_accuracy"][index], int(reliability["bin_pixels"][index])
        if accuracy is None:
            continue
        left = MARGIN_PX + index * width
        sure = reliability["bin_confidence"][index]
        title = (
            f"confidence {percent(index / bins)} to {percent((index + 1) / bins)}: "
            f"{percent(accuracy)} right of {pixels:,} px, {percent(sure)} sure"
        )
        drawn.append(
            element(
                "g",
                element("title", title),
                _bar(left, SIDE_PX * (1 - accuracy), width, SIDE_PX * accuracy, "measured"),
                _bar(left, SIDE_PX + 28, width, max(1.0, 48 * pixels / most), "projected"),
            )
        )
    height = SIDE_PX + 84
    return element(
        "svg",
        element("title", "Share of pixels that is right, by confidence"),
        _axes(),
        drawn,
        element(
            "line",
            x1=MARGIN_PX,
            y1=SIDE_PX,
            x2=MARGIN_PX + SIDE_PX,
            y2=0,
            stroke="currentColor",
            stroke_dasharray="5 4",
        ),
        class_="chart",
        role="img",
        width=MARGIN_PX + SIDE_PX + 8,
        height=height,
        viewBox=f"0 -8 {MARGIN_PX + SIDE_PX + 8} {height}",
        style="max-width:100%",
    )


def _bar(left: float, top: float, width: float, height: float, class_: str) -> Markup:
    return element(
        "rect",
        x=f"{left + 1:.2f}",
        y=f"{top:.2f}",
        width=f"{max(width - 2, 1):.2f}",
        height=f"{height:.2f}",
        class_=class_,
    )


def _axes() -> list[Markup]:
    parts: list[Markup] = []
    for tick in TICKS:
        x, y = MARGIN_PX + SIDE_PX * tick, SIDE_PX * (1 - tick)
        parts.append(element("line", x1=MARGIN_PX, y1=y, x2=MARGIN_PX + SIDE_PX, y2=y, class_="grid"))
        text = f"{100 * tick:.0f} %"
        parts.append(element("text", text, x=MARGIN_PX - 6, y=y + 4, text_anchor="end", class_="tick"))
        parts.append(element("text", text, x=x, y=SIDE_PX + 18, text_anchor="middle", class_="tick"))
    return parts


def _percent(share: float | None) -> str:
    return UNKNOWN if share is None else percent(share)
