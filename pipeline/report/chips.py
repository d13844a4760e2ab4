"""The ornament of a page: terrazzo chips in the mosaic's own colours, the same for the same run."""

import hashlib
from collections.abc import Sequence

import numpy as np

from pipeline.report.markup import Markup, element

WIDTH, HEIGHT, CELL = 1200, 72, 24


def chips(seed: str, colors: Sequence[str], weights: Sequence[float]) -> Markup:
    """A strip of chips; large classes give more of them.

    Args:
        seed: What makes this strip differ from others.
        colors: ``#rrggbb``, checked.
        weights: Share of each colour; roots are taken so that rare ones show too.
    """
    random = np.random.default_rng(int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8]))
    roots = np.sqrt(np.maximum(np.asarray(weights, np.float64), 0.0)) + 1e-6
    drawn = []
    for top in range(0, HEIGHT, CELL):
        for left in range(0, WIDTH, CELL):
            color = colors[int(random.choice(len(colors), p=roots / roots.sum()))]
            x, y = left + CELL * random.uniform(0.2, 0.8), top + CELL * random.uniform(0.2, 0.8)
            drawn.append(element("path", d=_chip(random, x, y), fill=color))
    return element(
        "svg",
        drawn,
        class_="chips",
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        preserveAspectRatio="xMidYMid slice",
        aria_hidden="true",
        focusable="false",
    )


def _chip(random: np.random.Generator, x: float, y: float) -> str:
    """A broken stone: a few corners around a centre."""
    corners = int(random.integers(4, 7))
    turns = (np.arange(corners) + random.uniform(-0.3, 0.3, corners)) * 2 * np.pi / corners
    radii = random.uniform(2.0, 9.5) * random.uniform(0.7, 1.15, corners)
    points = zip(x + 1.3 * radii * np.cos(turns), y + radii * np.sin(turns), strict=True)
    return f"M{' '.join(f'{px:.1f},{py:.1f}' for px, py in points)}Z"
