"""A confusion matrix as a table that is read at a glance: shares of each true class, shaded."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.report.markup import Child, Markup, element
from pipeline.report.pieces import note, section, table
from pipeline.report.wording import percent, shortened

MOST_CLASSES = 20
"""Classes shown by themselves; what is rarer is shown as one."""

MOST_MISTAKES = 10
NO_PREDICTION = "no prediction"


def confusion_section(names: Sequence[str], confusion: Sequence[Sequence[int]]) -> Markup:
    """The matrix and the largest mistakes.

    Args:
        names: The classes.
        confusion: Pixels by true class (rows) and predicted class (columns); the last column has none.
    """
    counts: NDArray[np.int64] = np.array(confusion, np.int64)
    shown_names, shown = _gathered(list(names), counts)
    columns = [*shown_names, NO_PREDICTION] if shown[:, -1].any() else shown_names
    rows: list[list[Child]] = []
    for index, name in enumerate(shown_names):
        total = int(shown[index].sum())
        cells = [_cell(int(value), total) for value in shown[index, : len(columns)]]
        rows.append([name, *cells, f"{total:,}"])
    headers = ["True class", *[shortened(name, 18) for name in columns], "Pixels"]
    return section(
        "confusion",
        "Confusion",
        table("Where the pixels of each true class went", headers, rows),
        note("Shares of the true class: a row adds up to 100 %. The diagonal is right."),
        _mistakes(list(names), counts),
    )


def _gathered(names: list[str], counts: NDArray[np.int64]) -> tuple[list[str], NDArray[np.int64]]:
    """The classes with the most true pixels, and one for all others."""
    if len(names) <= MOST_CLASSES:
        return names, counts
    kept = np.sort(np.argsort(-counts.sum(axis=1), kind="stable")[: MOST_CLASSES - 1])
    group = np.full(len(names) + 1, len(kept))
    group[kept] = np.arange(len(kept))
    columns = group.copy()
    columns[-1] = len(kept) + 1
    small = np.zeros((len(kept) + 1, len(kept) + 2), np.int64)
    np.add.at(small, (group[:-1, None], columns[None, :]), counts)
    return [*[names[index] for index in kept], f"{len(names) - len(kept)} other classes"], small


def _cell(pixels: int, total: int) -> Markup:
    share = pixels / total if total else 0.0
    shade = f"background:color-mix(in srgb,var(--accent) {round(45 * share)}%,transparent);padding:2px 6px"
    return element("span", percent(share) if pixels else "·", title=f"{pixels:,} px", style=shade)


def _mistakes(names: list[str], counts: NDArray[np.int64]) -> Markup | None:
    """The cells off the diagonal with the most pixels."""
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    total = int(counts.sum())
    largest = np.argsort(-wrong, axis=None, kind="stable")[:MOST_MISTAKES]
    places = [divmod(int(place), wrong.shape[1]) for place in largest]
    rows: list[list[Child]] = [
        [
            names[true],
            [*names, NO_PREDICTION][predicted],
            f"{int(wrong[true, predicted]):,}",
            percent(int(wrong[true, predicted]) / total),
        ]
        for true, predicted in places
        if wrong[true, predicted]
    ]
    if not rows:
        return None
    headers = ["True class", "Taken for", "Pixels", "Of all"]
    return table("The largest mistakes", headers, rows, text_columns=2)
