import itertools
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from pipeline.report import timeline as charts
from pipeline.report.run_folder import FinishedBlock
from pipeline.report.timeline import Clock, timeline

STAGES = {"read": 1.0, "wait": 0.0, "compute": 5.0, "write": 1.0}


def block(index, started, worker="w", **stages):
    return FinishedBlock(
        f"r00000c{index:05d}", worker, started, {**STAGES, **stages}, 9, 100, np.array([100]), 1
    )


class Rectangles(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        if tag == "rect":
            values = dict(attrs)
            left, width = (float(values[name].rstrip("%")) for name in ("x", "width"))
            self.found.append((values["class"], float(values["y"]), left, left + width))


def rectangles(markup):
    parser = Rectangles()
    parser.feed(markup)
    return parser.found


def test_stages_lie_where_they_happened():
    found = rectangles(timeline([block(0, 100.0, wait=3.0)]))
    assert [(name, round(left, 1), round(right, 1)) for name, _, left, right in found] == [
        ("stage-read", 0.0, 10.0),
        ("stage-wait", 10.0, 40.0),
        ("stage-compute", 40.0, 90.0),
        ("stage-write", 90.0, 100.0),
    ]


def test_blocks_under_way_at_once_do_not_cover_each_other():
    random = np.random.default_rng(0)
    blocks = [block(i, 100.0 + 3 * i + random.uniform(0, 2)) for i in range(30)]
    lanes = {}
    for _, top, left, right in rectangles(timeline(blocks)):
        lanes.setdefault(top, []).append((left, right))
    assert len(lanes) > 1
    for spans in lanes.values():
        ordered = sorted(spans)
        assert all(first[1] <= second[0] + 0.01 for first, second in itertools.pairwise(ordered))


def test_a_pause_between_sittings_is_cut_out_and_marked():
    blocks = [block(0, 0.0), block(1, 7.0), block(2, 7214.0), block(3, 7221.0)]
    clock = Clock.of(blocks)
    assert clock.total_s == pytest.approx(28.0)
    assert clock.pauses == [(pytest.approx(14.0), pytest.approx(7200.0))]
    assert "pause of 2\u202fh 00\u202fmin" in timeline(blocks)


def test_a_short_gap_stays():
    clock = Clock.of([block(0, 0.0), block(1, 20.0)])
    assert clock.total_s == pytest.approx(27.0)
    assert not clock.pauses


def test_many_blocks_are_added_up_without_losing_time():
    starts = np.array([0.0, 3.0, 50.0, 90.0])
    ends = starts + np.array([7.0, 20.0, 1.0, 10.0])
    edges = np.linspace(0, 100, 41)
    load = charts._load(starts, ends, edges)
    assert (load * np.diff(edges)).sum() == pytest.approx(38.0)
    assert load[2] == pytest.approx(1.8)  # 5.0 to 7.5: one for 2.0 s, another for all 2.5 s


def test_the_page_stays_small_however_many_blocks_and_workers_there_are():
    blocks = [block(i, 6.0 * (i // 100), worker=f"node-{i % 100}") for i in range(5000)]
    drawn = timeline(blocks)
    assert len(drawn) < 500_000
    assert "77 other workers together" in drawn
    counts = [int(text.replace(",", "")) for text in re.findall(r"([\d,]+) blocks", drawn)]
    assert sum(counts) == 5000
