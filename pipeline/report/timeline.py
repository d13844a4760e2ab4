"""Who did what when: a Gantt chart of stages per worker, drawn block by block or, for many blocks, added up.

Time is that in which something happened: where a run was interrupted and continued, the pause between is
cut out and marked.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.report.markup import Markup, element
from pipeline.report.run_folder import FinishedBlock
from pipeline.report.wording import NARROW_SPACE, duration, plural

STAGES = ("read", "wait", "compute", "write")
MOST_SINGLE_BLOCKS = 400
"""Drawn one by one; beyond, a bar would be thinner than a hair."""

MOST_WORKERS = 24
BINS = 160
LANE_PX, LANE_GAP_PX, BAND_PX, LABEL_PX, WORKER_GAP_PX, AXIS_PX = 14, 3, 40, 22, 14, 26
TICKS = 4

LEAST_PAUSE_S = 60.0
PAUSE_SHARE = 0.1
"""A stretch without any work is cut out where it is longer than a minute and this share of the work."""


@dataclass(frozen=True)
class Clock:
    """From moments to the time spent at work.

    Attributes:
        moments: Beginnings and ends of stretches of work, in seconds since 1970.
        at_work: Seconds of work before each.
        pauses: For each pause the seconds of work before it, and how long it was.
    """

    moments: NDArray[np.float64]
    at_work: NDArray[np.float64]
    pauses: Sequence[tuple[float, float]]

    @classmethod
    def of(cls, blocks: Sequence[FinishedBlock]) -> "Clock":
        """The clock of a run."""
        spans = sorted((block.started, block.ended) for block in blocks)
        stretches = [list(spans[0])]
        for start, end in spans[1:]:
            if start <= stretches[-1][1]:
                stretches[-1][1] = max(stretches[-1][1], end)
            else:
                stretches.append([start, end])
        work = sum(end - start for start, end in stretches)
        longest_idle = max(LEAST_PAUSE_S, PAUSE_SHARE * work)
        moments, at_work, pauses = [stretches[0][0]], [0.0], []
        for start, end in stretches:
            idle = start - moments[-1]
            if idle > longest_idle:
                pauses.append((at_work[-1], idle))
            moments += [start, end]
            begun = at_work[-1] + (0.0 if idle > longest_idle else idle)
            at_work += [begun, begun + end - start]
        return cls(np.array(moments), np.array(at_work), pauses)

    @property
    def total_s(self) -> float:
        """All the time at work."""
        return max(float(self.at_work[-1]), 1e-3)

    def share(self, moments: NDArray[np.float64]) -> NDArray[np.float64]:
        """Where moments lie between the first beginning (0) and the last end (1)."""
        return np.interp(moments, self.moments, self.at_work) / self.total_s


def timeline(blocks: Sequence[FinishedBlock]) -> Markup:
    """The chart; there must be at least one block."""
    clock = Clock.of(blocks)
    single = len(blocks) <= MOST_SINGLE_BLOCKS
    rows: list[Markup] = []
    top = 0
    for name, own in _by_worker(blocks):
        busy = sum(block.stages["compute"] for block in own)
        label = f"{name} · {plural(len(own), 'block')} · computing {duration(busy)}"
        drawn, height = _lanes(own, clock) if single else (_band(own, clock), BAND_PX)
        rows.append(element("text", label, x=0, y=top + 14, class_="label"))
        rows.append(element("svg", drawn, x=0, y=top + LABEL_PX, width="100%", height=height))
        top += LABEL_PX + height + WORKER_GAP_PX
    return element(
        "svg",
        element("title", "Stages of every worker over time"),
        _grid_lines(clock, top),
        rows,
        _axis(clock, top),
        class_="chart timeline",
        role="img",
        width="100%",
        height=top + AXIS_PX,
    )


def _by_worker(blocks: Sequence[FinishedBlock]) -> list[tuple[str, list[FinishedBlock]]]:
    """Blocks of each worker, in the order of their beginning; the least busy of very many as one."""
    workers: dict[str, list[FinishedBlock]] = {}
    for block in sorted(blocks, key=lambda block: block.started):
        workers.setdefault(block.worker or "a worker", []).append(block)
    if len(workers) <= MOST_WORKERS:
        return list(workers.items())
    busiest = set(sorted(workers, key=lambda name: -len(workers[name]))[: MOST_WORKERS - 1])
    shown = [(name, own) for name, own in workers.items() if name in busiest]
    rest = [block for name, own in workers.items() if name not in busiest for block in own]
    return [*shown, (f"{len(workers) - len(shown)} other workers together", rest)]


def _lanes(blocks: Sequence[FinishedBlock], clock: Clock) -> tuple[list[Markup], int]:
    """Blocks in as many lanes as were under way at once, and the height they take."""
    ends: list[float] = []
    drawn = []
    for block in blocks:
        lane = next((index for index, end in enumerate(ends) if end <= block.started), len(ends))
        ends[lane : lane + 1] = [block.ended]
        drawn.append(_single(block, clock, lane * (LANE_PX + LANE_GAP_PX)))
    return drawn, len(ends) * (LANE_PX + LANE_GAP_PX)


def _single(block: FinishedBlock, clock: Clock, top: int) -> Markup:
    seconds = [block.stages[stage] for stage in STAGES]
    edges = 100 * clock.share(block.started + np.concatenate([[0.0], np.cumsum(seconds)]))
    told = ", ".join(f"{stage} {duration(s)}" for stage, s in zip(STAGES, seconds, strict=True))
    parts = [
        element(
            "rect",
            x=f"{edges[index]:.3f}%",
            y=top,
            width=f"{edges[index + 1] - edges[index]:.3f}%",
            height=LANE_PX,
            class_=f"stage-{stage}",
        )
        for index, stage in enumerate(STAGES)
        if seconds[index] > 0
    ]
    return element("g", element("title", f"{block.name}: {told}"), parts)


def _band(blocks: Sequence[FinishedBlock], clock: Clock) -> Markup:
    """Read, compute and write added up: the height is how much of it went on at once."""
    edges = np.linspace(0.0, 1.0, BINS + 1)
    started = np.array([block.started for block in blocks])
    loads = []
    for stage in STAGES:
        ended = started + np.array([block.stages[stage] for block in blocks])
        loads.append(_load(clock.share(started), clock.share(ended), edges))
        started = ended
    shown = [(stage, load) for stage, load in zip(STAGES, loads, strict=True) if stage != "wait"]
    highest = max(float(np.sum([load for _, load in shown], axis=0).max()), 1e-9)
    base = np.zeros(BINS)
    paths = []
    for stage, load in shown:
        height = load / highest * BAND_PX
        paths.append(element("path", d=_steps(base, base + height), class_=f"stage-{stage}"))
        base = base + height
    return element(
        "svg",
        paths,
        viewBox=f"0 0 {BINS} {BAND_PX}",
        preserveAspectRatio="none",
        width="100%",
        height=BAND_PX,
    )


def _load(
    starts: NDArray[np.float64], ends: NDArray[np.float64], edges: NDArray[np.float64]
) -> NDArray[np.float64]:
    """How many of the spans are open in each bin, on average."""
    passed = np.array([np.clip(edge - starts, 0.0, ends - starts).sum() for edge in edges])
    return np.asarray(np.diff(passed) / np.diff(edges))


def _steps(low: NDArray[np.float64], high: NDArray[np.float64]) -> str:
    """The outline of an area between two staircases, drawn upwards from the band's foot."""
    there = [f"{i},{BAND_PX - y:.2f} {i + 1},{BAND_PX - y:.2f}" for i, y in enumerate(high)]
    back = [f"{i + 1},{BAND_PX - y:.2f} {i},{BAND_PX - y:.2f}" for i, y in reversed(list(enumerate(low)))]
    return f"M{' '.join(there)} {' '.join(back)}Z"


def _grid_lines(clock: Clock, height: int) -> list[Markup]:
    lines = [
        element("line", x1=f"{100 * share:.3f}%", x2=f"{100 * share:.3f}%", y1=0, y2=height, class_="grid")
        for share, _ in _ticks(clock)
    ]
    for before, length in clock.pauses:
        at = f"{100 * before / clock.total_s:.3f}%"
        told = element("title", f"pause of {duration(length)}")
        lines.append(element("line", told, x1=at, x2=at, y1=0, y2=height, class_="pause"))
    return lines


def _axis(clock: Clock, top: int) -> list[Markup]:
    texts = []
    for share, text in _ticks(clock):
        anchor = "start" if share < 0.04 else "end" if share > 0.96 else "middle"
        texts.append(
            element("text", text, x=f"{100 * share:.3f}%", y=top + 16, text_anchor=anchor, class_="tick")
        )
    return texts


def _ticks(clock: Clock) -> list[tuple[float, str]]:
    """Round times, as shares of the whole."""
    steps = [
        unit * step
        for unit in (0.001, 0.01, 0.1, 1, 10, 60, 600, 3600, 36000, 86400, 864000)
        for step in (1, 2, 5)
    ]
    wanted = clock.total_s / TICKS
    step = next((step for step in sorted(steps) if step >= wanted), steps[-1])
    times = [index * step for index in range(math.floor(clock.total_s / step) + 1)]
    return [(time / clock.total_s, _tick_text(time)) for time in times]


def _tick_text(seconds: float) -> str:
    """A round time, without the zeros that a measured one has."""
    if seconds < 60:
        return f"{seconds:g}{NARROW_SPACE}s"
    return duration(seconds).removesuffix(f" 00{NARROW_SPACE}s").removesuffix(f" 00{NARROW_SPACE}min")
