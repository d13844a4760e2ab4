"""The whole of a run: inspect → plan → check → execute → audit → overviews → report."""

import functools
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from zarr.errors import ContainsArrayError, ContainsGroupError

from pipeline.config import RunConfig
from pipeline.errors import Interrupted, SettingsError, StorageError, TerrazzoError
from pipeline.raster.consolidate import consolidate
from pipeline.raster.export.stac_item import write_stac_item
from pipeline.raster.mosaic import Mosaic, create_mosaic
from pipeline.report.page import write_report
from pipeline.segment import overviews
from pipeline.segment.audit import Audit, audit
from pipeline.segment.executor import Event, Executor, Finished, GivenUp, LocalExecutor, WorkerFactory
from pipeline.segment.inspect import inspect
from pipeline.segment.ledger import OVERVIEWS_KEY, Ledger, check_fingerprint, started_over, to_bytes
from pipeline.segment.machine import this_machine
from pipeline.segment.nightly.publish import find_changes, overviews_to_do, publish, read_changes, tidy
from pipeline.segment.nightly.versions import Night
from pipeline.segment.planned import PlannedRun, plan_document, plan_inspected
from pipeline.segment.progress import Progress
from pipeline.segment.resolve import Machine, share_out
from pipeline.segment.spare_model import SpareModel, check_model
from pipeline.segment.tally import Tally, make_report, seconds_per_crop
from pipeline.segment.worker import BlockWorker
from pipeline.signals import stop_on_signals
from pipeline.storage import Folder, explained, redact

logger = logging.getLogger(__name__)

REPORT_KEY = "report.json"
LOCAL_OVERVIEW_TASKS = 64
"""So few squares are done in this process sooner than workers start."""

INTERRUPTS = f"{Interrupted.__name__}: "
"""How the reason begins for which a block is given up, where that is no fault of the block."""

CREATE_ATTEMPTS = 20
"""Each gets at least one array further than the other attempt had come."""


def plan_only(config: RunConfig) -> dict[str, Any]:
    """The plan, without Ray, GPU or a byte written."""
    inspection = inspect(config)
    night = Night.open(config, inspection) if config.incremental.previous else None
    planned = plan_inspected(config, inspection, this_machine(), night.begun if night else None)
    if night:
        planned = night.place(planned)
        night.compare(planned)
    stored = planned.ledger.read_segmentation()
    pace = None
    if stored and stored["fingerprint"] == planned.fingerprint:
        pace = seconds_per_crop([record for _, record in planned.ledger.records()])
    document = plan_document(planned, pace)
    return document | {"incremental": night.to_json(planned)} if night else document


def segment(config: RunConfig, *, overwrite: bool = False) -> dict[str, Any]:
    """Run, or go on with a run; gives the report, which is also stored beside the mosaic."""
    if config.incremental.previous:
        return _segment_night(config, overwrite=overwrite)
    began = time.monotonic()
    ledger = Ledger.beside(config.output.url)
    inspection = inspect(config)
    stored = None if overwrite else ledger.read_segmentation()
    with _executors(config) as (machine, make_executor):
        planned = plan_inspected(config, inspection, machine, stored)
        spare = _check_model(planned) if stored is None else SpareModel()
        planned = _begin(planned, stored, overwrite=overwrite)
        tally = Tally()
        with stop_on_signals() as stop, _resumable(tally):
            found = _execute(planned, make_executor(planned), tally, stop, spare)
            if not stop.is_set() and found.is_complete and config.output.overviews:
                _write_overviews(planned, make_executor(planned), tally, stop)
            status = _status(found, tally, stop)
    report = make_report(planned, tally, found, status=status, seconds=time.monotonic() - began)
    _keep_report(planned, report)
    return report


def _segment_night(config: RunConfig, *, overwrite: bool) -> dict[str, Any]:
    """Write, finish or find again the version of this night, and publish it when it is whole."""
    began = time.monotonic()
    if overwrite:
        raise SettingsError(
            "--overwrite deletes what the output holds, but versions of a nightly product never change; "
            "give another --output to compute all of it anew"
        )
    inspection = inspect(config)
    night = Night.open(config, inspection)
    with _executors(config) as (machine, make_executor):
        planned = night.place(plan_inspected(config, inspection, machine, night.begun))
        night.compare(planned)
        is_new = not night.is_published(planned) and not planned.ledger.has_plan()
        spare = _check_model(planned) if is_new else SpareModel()
        planned, stored = night.claim(planned)
        if not night.is_published(planned):  # readers use it: it is audited, and else left alone
            planned = _begin(planned, stored, overwrite=False)
        tally = Tally()
        with stop_on_signals() as stop, _resumable(tally):
            night.take_over(planned, stop)
            found = _execute(planned, make_executor(planned), tally, stop, spare)
            if not stop.is_set() and found.is_complete:
                if config.output.overviews:
                    squares = overviews_to_do(night, planned, stop)
                    _write_overviews(planned, make_executor(planned), tally, stop, squares)
                find_changes(night, planned, lambda: make_executor(planned), stop)
            status = _status(found, tally, stop)
    report = make_report(planned, tally, found, status=status, seconds=time.monotonic() - began)
    told = night.outcome(planned, {record["block"] for record in tally.records})
    report["incremental"] = told | {"changes": read_changes(night, planned)}
    if tally.records or not night.is_published(planned):  # of a night without any change, nothing is new
        _keep_report(planned, report)
    if status == "complete":
        published = publish(night, planned)
        report["incremental"] |= {"published": published, "pruned": tidy(night, config.incremental)}
    return report


def _status(found: Audit, tally: Tally, stop: threading.Event) -> str:
    if stop.is_set():
        return "interrupted"
    return "complete" if found.is_complete and not tally.overviews_given_up else "incomplete"


@contextmanager
def _resumable(tally: Tally) -> Iterator[None]:
    """A store that fails under way interrupts a run; it is refused only while nothing has come of it."""
    try:
        yield
    except StorageError as error:
        if not tally.records:
            raise
        raise Interrupted(f"{error}; what is finished stays finished: start again to go on") from error


def _keep_report(planned: PlannedRun, report: Mapping[str, Any]) -> None:
    """Store the report, the page made of it, and the mosaic's STAC item."""
    planned.ledger.folder.write(REPORT_KEY, to_bytes(report))
    try:
        write_stac_item(planned.output.url)
        write_report(planned.output.url, source_url=planned.config.source.name)
    except TerrazzoError as error:
        logger.warning("the run is %s, but its page could not be written: %s", report["status"], error)


def _check_model(planned: PlannedRun) -> SpareModel:
    """Of a run that begins, while nothing is written: those that go on are checked by their workers."""
    is_local = planned.config.compute.executor == "local"
    return check_model(planned.inspection.model_folder, is_kept=is_local)


def _begin(planned: PlannedRun, stored: Mapping[str, Any] | None, *, overwrite: bool) -> PlannedRun:
    """Make the output ready, fresh or as it was left. The plan comes first: a kill leaves a resumable run."""
    output, ledger = planned.output, planned.ledger
    if overwrite:
        _check_that_it_is_ours(output, ledger)
        with explained("empty", output.url, missing_is_fault=True):  # somebody may be writing there still
            output.delete_all()
            ledger.delete_all()
    if stored is None:
        if not output.is_empty() and not ledger.has_plan():  # which another attempt may have begun just now
            raise StorageError(
                f"the output must be a new place, but {redact(output.url)} holds something that is not a run "
                "of this program; give another --output, or start over with --overwrite"
            )
        stored = ledger.begin(plan_document(planned))  # or that other attempt's
        planned = replace(planned, run_id=str(stored["run_id"]))
    check_fingerprint(stored["fingerprint_fields"], planned.fingerprint_fields, output.url)
    ledger.forget_failures()
    _create(planned)
    consolidate(output)
    return planned


def _create(planned: PlannedRun) -> None:
    """Metadata of all arrays; another attempt at the same run may be creating them at the same time."""
    for attempt in range(CREATE_ATTEMPTS):
        try:
            create_mosaic(planned.output, planned.layout)
            if planned.config.output.overviews:
                overviews.create_overviews(planned.output, planned.layout)
        except (ContainsArrayError, ContainsGroupError):
            if attempt == CREATE_ATTEMPTS - 1:
                raise
        else:
            return


def _check_that_it_is_ours(output: Folder, ledger: Ledger) -> None:
    """Starting over deletes; a mistyped URL must not cost anybody their thesis."""
    if ledger.has_plan() or output.is_empty():
        return
    try:
        Mosaic.open(output.url)
    except StorageError as error:
        raise StorageError(
            f"--overwrite deletes a mosaic of this program, but {redact(output.url)} holds something else; "
            "give another --output, or empty that place yourself"
        ) from error


def _execute(
    planned: PlannedRun, executor: Executor, tally: Tally, stop: threading.Event, spare: SpareModel
) -> Audit:
    """Compute what is not done; what the audit finds damaged is computed once more."""
    ledger = planned.ledger
    for _ in range(2):
        finished = ledger.finished()
        todo = [block.id for block in planned.plan.tasks() if block.id not in finished]
        todo = [block for block in todo if block not in tally.given_up]
        make_worker = functools.partial(BlockWorker, planned.spec, spare)
        _run_blocks(planned, executor, make_worker, todo, tally, stop)
        found = audit(planned.output, ledger, planned.plan, planned.layout, stop)
        if stop.is_set() or not found.damaged:
            break
        for block, fault in found.damaged.items():
            logger.warning("block %s is computed again: %s", block, fault)
            ledger.forget(block)
    return found


def _run_blocks(
    planned: PlannedRun,
    executor: Executor,
    make_worker: WorkerFactory,
    todo: Sequence[str],
    tally: Tally,
    stop: threading.Event,
) -> None:
    progress = Progress(len(todo))

    def on_event(event: Event) -> None:
        if not isinstance(event, Finished):
            _check_that_it_is_still_ours(planned)
        if isinstance(event, GivenUp) and event.reason.startswith(INTERRUPTS):
            raise Interrupted(event.reason.removeprefix(INTERRUPTS))
        tally.count(event, planned.ledger)
        progress.on_event(event)

    try:
        executor.run(make_worker, todo, on_event, stop)
    finally:
        progress.close()


def _check_that_it_is_still_ours(planned: PlannedRun) -> None:
    """A worker that was refused by a run which started over is no failed block: this run has to end."""
    plan = planned.ledger.read_plan()
    if plan is not None and plan.get("run_id") != planned.run_id:
        raise started_over(planned.output.url)


def _write_overviews(
    planned: PlannedRun,
    executor: Executor,
    tally: Tally,
    stop: threading.Event,
    squares: Mapping[int, Sequence[str]] | None = None,
) -> None:
    """Overviews of a complete mosaic; skipped where they were written for the same blocks.

    Args:
        planned: The run.
        executor: Who writes them, if they are many.
        tally: Where squares that could not be written are noted.
        stop: Set when the run should end.
        squares: By level those to write; None: all.
    """
    height, width = planned.layout.grid.window.shape
    state = to_bytes({"blocks": sorted(planned.ledger.finished())})
    folder = planned.ledger.folder
    if folder.exists(OVERVIEWS_KEY) and folder.read(OVERVIEWS_KEY) == state:
        return
    for base in overviews.rounds(height, width):
        every = overviews.tasks(height, width, base, planned.layout.stack_shape)
        tasks = every if squares is None else squares[base]
        chosen = executor if len(tasks) > LOCAL_OVERVIEW_TASKS else LocalExecutor(planned.workers.threads)
        worker = functools.partial(overviews.OverviewWorker, planned.output, planned.layout)
        chosen.run(worker, tasks, tally.count_overview, stop)
        if stop.is_set() or tally.overviews_given_up:
            return
    folder.write(OVERVIEWS_KEY, state)


@contextmanager
def _executors(config: RunConfig) -> Iterator[tuple[Machine, Callable[[PlannedRun], Executor]]]:
    """The machine to plan for, and the executor once the plan is known."""
    machine = this_machine()
    if config.compute.executor == "local":
        yield machine, lambda planned: LocalExecutor(planned.workers.count)
        return
    # Ray is imported only where it is used: everything else works where it is not installed.
    from pipeline.segment.ray_executor import RayExecutor, ray_session  # noqa: PLC0415

    wished = share_out(config, machine, None)
    with ray_session(machine, cores=wished.count * wished.threads) as cluster:
        yield cluster, lambda planned: RayExecutor(planned.workers, planned.memory.total)
