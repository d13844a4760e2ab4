"""Sections about how it went: pace, time line, plan against actual, faults."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.report.charts import Part, bullet, stacked_bar
from pipeline.report.markup import Child, Markup, element
from pipeline.report.pieces import facts, note, section, table
from pipeline.report.subject import Subject
from pipeline.report.timeline import MOST_SINGLE_BLOCKS, STAGES, timeline
from pipeline.report.wording import UNKNOWN, duration, number, percent, plural, size, with_unit

STAGE_MEANINGS = {
    "read": "source pixels, decoded",
    "wait": "read, and waiting for the device",
    "compute": "crops, network, blending, finishing",
    "write": "compressed and stored",
}
MOST_LISTED = 100
"""Faults of one kind on the page; all of them are in report.json."""


def pace_section(subject: Subject) -> Markup:
    """Throughput, and what every worker did when."""
    run = subject.run
    blocks = run.computed_blocks
    totals = {stage: sum(block.stages[stage] for block in blocks) for stage in STAGES}
    whole = sum(totals.values()) or 1.0
    crops = sum(block.crops for block in blocks)
    pairs: list[tuple[str, Child]] = [
        ("throughput of this run", with_unit(run.report["mpx_per_s"], "Mpx/s")),
        ("time of this run", duration(run.report["seconds"])),
        ("workers", str(len({block.worker for block in blocks}))),
        ("computing a crop", duration(totals["compute"] / crops) if crops else UNKNOWN),
    ]
    if not blocks:
        told = "Every block was copied." if run.blocks else "No block is finished yet."
        return section("pace", "Pace", facts(pairs, "facts row"), element("p", told))
    rows = [
        (_key(stage), STAGE_MEANINGS[stage], duration(totals[stage]), percent(totals[stage] / whole))
        for stage in STAGES
    ]
    drawing = (
        "Every bar is a block; each worker has several under way, so that reading and writing hide "
        "behind computing."
        if len(blocks) <= MOST_SINGLE_BLOCKS
        else "Heights show how many blocks of a worker were read, computed and written at once."
    )
    return section(
        "pace",
        "Pace",
        facts(pairs, "facts row"),
        element("h3", "Where the time of workers went"),
        stacked_bar(
            [Part(stage, totals[stage], f"stage-{stage}") for stage in STAGES],
            title="Share of every stage in the time of workers",
        ),
        table(
            "Stages, added up over all blocks", ("Stage", "What it is", "Time", "Share"), rows, text_columns=2
        ),
        element("h3", "Time line"),
        element("p", drawing, " Pauses between sittings of one run are cut out.", class_="note"),
        timeline(blocks),
    )


def plan_section(subject: Subject) -> Markup:
    """What was planned, and what came."""
    run, plan = subject.run, subject.run.plan
    crops = sum(block.crops for block in run.blocks)
    peak = max([block.peak_rss_bytes for block in run.blocks], default=0)
    projected, limit = plan["memory_per_worker"]["total_bytes"], plan["memory_limit_bytes"]
    estimated = plan["estimated_seconds"]
    rows = [
        ("Blocks", f"{plan['blocks']:,}", f"{run.num_finished:,}", _ratio(run.num_finished, plan["blocks"])),
        (
            "Crops computed",
            f"{plan['crops']['computed']:,}",
            f"{crops:,}",
            _ratio(crops, plan["crops"]["computed"]),
        ),
        (
            "Peak memory of a worker",
            size(projected),
            size(peak) if peak else UNKNOWN,
            _ratio(peak, projected),
        ),
        (
            "Time of this run",
            duration(estimated) if estimated is not None else "no pace known",
            duration(run.report["seconds"]),
            _ratio(run.report["seconds"], estimated),
        ),
    ]
    overlap = (
        f"{plan['crops']['unique']:,} crops are unique; those across the edge of two blocks are computed by "
        f"both, which makes {plan['crops']['ratio']:.3f} times as many. "
        "Crops without a valid pixel are never computed."
    )
    return section(
        "plan",
        "Plan against actual",
        table("The plan beside what was measured", ("", "Planned", "Actual", "Actual ÷ planned"), rows),
        note(overlap),
        note(_pace_told(subject)),
        element("h3", "Memory of a worker"),
        bullet(
            peak,
            projected,
            limit,
            title=f"Measured {size(peak)}, projected {size(projected)}, limit {size(limit)}",
        ),
        element(
            "ul",
            element("li", element("span", class_="swatch measured"), f"measured {size(peak)}"),
            element("li", element("span", class_="swatch projected"), f"projected {size(projected)}"),
            element("li", element("span", class_="swatch limit"), f"limit {size(limit)}"),
            class_="legend",
        ),
        note("More memory was taken than projected: please report this.") if peak > projected else None,
        element("h3", "Seams"),
        _seam(run.report.get("seam")),
    )


def faults_section(subject: Subject) -> Markup:
    """Failures with their tracebacks, requeues, and what the audit found."""
    run = subject.run
    details = {record["block"]: record for record in run.failed}
    # A block given up is in both; one given up by an earlier sitting that was killed is in the folder alone.
    failures = list({one["block"]: one for one in [*run.failed, *run.report["failures"]]}.values())
    retries, faults = run.report["retries"], run.report["audit"]["faults"]
    if not (failures or retries or faults):
        checked = plural(run.report["audit"]["objects"], "stored object")
        return section(
            "faults",
            "Faults",
            element("p", f"None. No block failed, none was tried again, and the audit read {checked} back."),
        )
    given_up = [_failure(failure, details) for failure in failures[:MOST_LISTED]]
    return section(
        "faults",
        "Faults",
        _listing("Blocks given up", len(failures), given_up),
        _listing("Audit", len(faults), [element("li", fault) for fault in faults[:MOST_LISTED]]),
        _listing("Tried again", len(retries), [_retry(retry) for retry in retries[:MOST_LISTED]]),
    )


def _listing(heading: str, count: int, entries: Sequence[Markup]) -> Markup | None:
    if not count:
        return None
    left_out = count - len(entries)
    return element(
        "div",
        element("h3", heading, " ", element("span", f"{count:,}", class_="count")),
        element("ul", entries, class_="faults"),
        note(f"{left_out:,} more are in report.json.") if left_out else None,
    )


def _failure(failure: Mapping[str, Any], details: Mapping[Any, Mapping[str, Any]]) -> Markup:
    record = details.get(failure["block"], {})
    attempts = f" after {plural(record['attempts'], 'attempt')}" if "attempts" in record else ""
    traceback = record.get("traceback")
    return element(
        "li",
        element("strong", failure["block"], attempts, ": "),
        failure["reason"],
        element("details", element("summary", "Traceback"), element("pre", traceback, tabindex=0))
        if traceback
        else None,
    )


def _retry(retry: Mapping[str, Any]) -> Markup:
    kind = "failed" if retry["counted"] else "worker lost, not counted as an attempt"
    return element("li", element("strong", retry["block"], ": "), f"{retry['reason']} ({kind})")


def _seam(seam: float | None) -> Markup:
    if seam is None:
        return element("p", "No crop border lies within the mosaic: there is nothing to compare.")
    return element(
        "p",
        element("strong", f"{seam:.2f}", class_="large"),
        " times the change of confidence found elsewhere lies across the borders of crops: "
        "at 1.00 no seam shows.",
    )


def _pace_told(subject: Subject) -> str | None:
    seconds = subject.run.report["plan"]["estimated_seconds"]
    if seconds is None:
        return None
    workers = plural(subject.run.plan["workers"]["count"], "worker")
    return f"At the pace measured, computing all planned crops takes {workers} {duration(seconds)}."


def _ratio(actual: float, planned: float | None) -> str:
    return number(actual / planned, 3) if planned and actual else UNKNOWN


def _key(stage: str) -> Markup:
    return element("span", element("span", class_=f"swatch stage-{stage}", aria_hidden="true"), stage)
