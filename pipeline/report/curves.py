"""Curves over the steps of a run as inline SVG: shapes stretch with the page, text keeps its size.

Long curves are drawn by a few hundred means with a band from the lowest to the highest value behind them, so
that no spike is lost and no page grows.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipeline.report.markup import Markup, element

POINTS = 320
"""Means drawn of a curve at most."""

HEIGHT_PX, AXIS_PX = 220, 28
UNITS = 1000
"""The drawing's own width and height, stretched to the page's."""

TICKS = 4


@dataclass(frozen=True)
class Curve:
    """One line.

    Attributes:
        name: What it is.
        xs: Steps, rising.
        ys: Values; NaN where there is none, and the line breaks there.
        color: ``#rrggbb``, checked; or None, for the page's own ink.
        is_strong: Drawn wider than others.
        has_band: Whether the values that a mean stands for are drawn behind it.
    """

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    color: str | None = None
    is_strong: bool = False
    has_band: bool = False


@dataclass(frozen=True)
class Scale:
    """Where values lie on the drawing.

    Attributes:
        low: Value at its lower edge, or left end.
        high: Value at its upper edge, or right end.
        ticks: Values to be written.
    """

    low: float
    high: float
    ticks: Sequence[float] = field(default_factory=tuple)

    @classmethod
    def over(cls, values: Sequence[float], *, low: float | None = None, high: float | None = None) -> "Scale":
        """A scale with round ticks that holds all values; finite ones alone count."""
        finite = [value for value in values if math.isfinite(value)]
        bottom = low if low is not None else min(finite, default=0.0)
        top = high if high is not None else max(finite, default=1.0)
        if top <= bottom:
            top = bottom + (abs(bottom) or 1.0)
        step = _round_step((top - bottom) / TICKS)
        bottom = bottom if low is not None else math.floor(bottom / step) * step
        top = top if high is not None else math.ceil(top / step - 1e-9) * step
        first = math.ceil(bottom / step - 1e-9)
        ticks = [index * step for index in range(first, math.floor(top / step + 1e-9) + 1)]
        return cls(bottom, top, tuple(ticks))

    def share(self, value: float) -> float:
        """A value's place, from 0 to 1."""
        return min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))


def line_chart(
    curves: Sequence[Curve], *, title: str, say: Callable[[float], str], y_scale: Scale | None = None
) -> Markup:
    """Curves over a common axis of steps.

    Args:
        curves: At least one, with at least one value among them.
        title: What the chart shows, for those who cannot see it too.
        say: A value of the vertical axis in words.
        y_scale: The vertical axis; by default one that fits.
    """
    across = Scale.over([x for curve in curves for x in curve.xs], low=0.0)
    across = Scale(0.0, max((x for curve in curves for x in curve.xs), default=1.0) or 1.0, across.ticks)
    thinned = [_Thinned.of(curve) for curve in curves]
    upright = y_scale or Scale.over([value for one in thinned for value in one.extremes])
    shapes = [
        shape for one in thinned for shape in (*_band(one, across, upright), *_line(one, across, upright))
    ]
    return element(
        "svg",
        element("title", title),
        _rules(upright),
        element(
            "svg",
            shapes,
            viewBox=f"0 0 {UNITS} {UNITS}",
            preserveAspectRatio="none",
            width="100%",
            height=HEIGHT_PX,
        ),
        _values(upright, say),
        _steps(across),
        class_="chart curves",
        role="img",
        width="100%",
        height=HEIGHT_PX + AXIS_PX,
    )


@dataclass(frozen=True)
class _Thinned:
    """A curve as groups of neighbours, as many as can be told apart: their steps, means and extremes."""

    curve: Curve
    xs: NDArray[np.float64]
    means: NDArray[np.float64]
    lows: NDArray[np.float64]
    highs: NDArray[np.float64]

    @classmethod
    def of(cls, curve: Curve) -> "_Thinned":
        xs, ys = np.asarray(curve.xs, np.float64), np.asarray(curve.ys, np.float64)
        groups = np.array_split(np.arange(len(xs)), min(POINTS, len(xs))) if len(xs) else []
        rows = []
        for group in groups:
            known = ys[group][np.isfinite(ys[group])]
            figures = (known.mean(), known.min(), known.max()) if known.size else (np.nan,) * 3
            rows.append((xs[group].mean(), *figures))
        return cls(curve, *np.array(rows, np.float64).reshape(-1, 4).T)

    @property
    def extremes(self) -> list[float]:
        """What a scale must hold."""
        shown = (self.lows, self.highs) if self.curve.has_band else (self.means,)
        return [float(value) for values in shown for value in values]


def _line(thinned: _Thinned, across: Scale, upright: Scale) -> list[Markup]:
    """The line, edged in grey, which sets any colour off from any ground; a lone value as a dot."""
    curve = thinned.curve
    runs: list[list[str]] = [[]]
    for x, y in zip(thinned.xs, thinned.means, strict=True):
        if math.isfinite(y):
            runs[-1].append(_point(across, upright, float(x), float(y)))
        elif runs[-1]:
            runs.append([])
    # A line of no length with round ends is a dot.
    path = " ".join(f"M{run[0]} L{' '.join(run[1:] or run)}" for run in runs if run)
    name = element("title", curve.name)
    strength = " strong" if curve.is_strong else ""
    return [
        element("path", d=path, class_=f"casing{strength}"),
        element("path", name, d=path, class_=f"line{strength}", style=_ink("stroke", curve)),
    ]


def _band(thinned: _Thinned, across: Scale, upright: Scale) -> list[Markup]:
    known = np.isfinite(thinned.lows)
    if not (thinned.curve.has_band and known.any()):
        return []
    there, back = (
        [
            _point(across, upright, float(x), float(y))
            for x, y in zip(thinned.xs[known], edge[known], strict=True)
        ]
        for edge in (thinned.highs, thinned.lows)
    )
    path = f"M{' '.join([*there, *reversed(back)])}Z"
    return [element("path", d=path, class_="band", style=_ink("fill", thinned.curve))]


def _ink(what: str, curve: Curve) -> str | None:
    return f"{what}:{curve.color}" if curve.color else None


def _point(across: Scale, upright: Scale, x: float, y: float) -> str:
    return f"{UNITS * across.share(x):.1f},{UNITS * (1 - upright.share(y)):.1f}"


def _rules(upright: Scale) -> list[Markup]:
    heights = [f"{HEIGHT_PX * (1 - upright.share(tick)):.1f}" for tick in upright.ticks]
    return [element("line", x1=0, x2="100%", y1=y, y2=y, class_="grid") for y in heights]


def _values(upright: Scale, say: Callable[[float], str]) -> list[Markup]:
    """Values beside their rules: above them, or below where that would be cut off."""
    drawn = []
    for tick in upright.ticks:
        y = HEIGHT_PX * (1 - upright.share(tick))
        drawn.append(element("text", say(tick), x=0, y=f"{y - 5 if y > 16 else y + 14:.1f}", class_="tick"))
    return drawn


def _steps(across: Scale) -> list[Markup]:
    drawn = []
    for tick in across.ticks:
        share = across.share(tick)
        anchor = "start" if share < 0.04 else "end" if share > 0.96 else "middle"
        text = f"step {tick:,.0f}" if tick == across.ticks[-1] else f"{tick:,.0f}"
        x = f"{100 * share:.2f}%"
        drawn.append(element("text", text, x=x, y=HEIGHT_PX + 20, text_anchor=anchor, class_="tick"))
    return drawn


def _round_step(wanted: float) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is not below."""
    power = 10.0 ** math.floor(math.log10(wanted))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= wanted * (1 - 1e-9))
