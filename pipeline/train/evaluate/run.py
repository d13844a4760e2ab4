"""A mosaic against labels: plan → compare block by block → add up → report.

The output holds ``plan.json`` and one small record a finished block, as beside a mosaic; ``errors.zarr``, a
mosaic of two classes, right and wrong; ``report.json`` and ``report.html``. Started again, it goes on.
"""

import functools
import logging
import threading
import time
from collections.abc import Mapping
from typing import Any

from pipeline.errors import MismatchError, SettingsError, StorageError
from pipeline.raster.consolidate import consolidate
from pipeline.raster.export.cog import export_cog
from pipeline.raster.mosaic import create_mosaic
from pipeline.report.evaluation import REPORT_KEY, write_evaluation_report
from pipeline.report.frame import PAGE_KEY
from pipeline.segment.executor import Event, Executor, Finished, GivenUp
from pipeline.segment.ledger import PLAN_KEY, check_fingerprint, to_bytes
from pipeline.segment.progress import Progress
from pipeline.signals import stop_on_signals
from pipeline.storage import normalise_url, redact
from pipeline.train.evaluate.evaluation import Evaluation
from pipeline.train.evaluate.executors import executor_for
from pipeline.train.evaluate.memory import project_memory_bytes
from pipeline.train.evaluate.plan import KIND, PlannedEvaluation, plan_evaluation
from pipeline.train.evaluate.settings import EvaluateConfig
from pipeline.train.evaluate.worker import EvaluateSpec, EvaluateWorker

logger = logging.getLogger(__name__)

OWN_KEYS = (REPORT_KEY, PAGE_KEY, PLAN_KEY)
"""What an evaluation leaves beside its records and its error map."""


def evaluate(config: EvaluateConfig, *, overwrite: bool = False) -> dict[str, Any]:
    """Compare a mosaic with labels, or go on with it; gives the report, which is also stored."""
    began = time.monotonic()
    planned = plan_evaluation(config)
    ledger = planned.spec.ledger
    stored = ledger.read_plan()
    _begin(planned, stored, overwrite=overwrite)
    memory_bytes = project_memory_bytes(planned.spec)
    with executor_for(config.compute, memory_bytes) as executor, stop_on_signals() as stop:
        given_up = _execute(planned, executor, stop, is_new=stored is None or overwrite)
        interrupted = stop.is_set()
    evaluation = Evaluation(planned.mosaic, planned.spec, planned.region_names)
    for _, record in ledger.records():
        evaluation.add(record)
    missing = len(planned.blocks) - evaluation.blocks
    status = "interrupted" if interrupted else "incomplete" if missing else "complete"
    report = {"status": status, **_subject(planned), **evaluation.to_json()}
    report["blocks"] = {"total": len(planned.blocks), "done": evaluation.blocks, "failed": len(given_up)}
    report["failures"] = [{"block": block, "reason": reason} for block, reason in given_up.items()]
    if status == "complete" and config.error_cog:
        report["error_cog"] = export_cog(planned.spec.errors.url, "classes", config.error_cog).url
    report["seconds"] = round(time.monotonic() - began, 3)
    ledger.folder.write(REPORT_KEY, to_bytes(report))
    try:
        write_evaluation_report(ledger.folder.url)
    except StorageError as error:
        logger.warning("the evaluation is %s, but its page could not be written: %s", status, error)
    return report


def _begin(planned: PlannedEvaluation, stored: Mapping[str, Any] | None, *, overwrite: bool) -> None:
    """Make the output ready, fresh or as it was left. The plan comes first: a kill leaves what can go on."""
    ledger = planned.spec.ledger
    if stored is not None and stored.get("kind") != KIND:
        raise MismatchError(
            f"{redact(ledger.folder.url)} belongs to another kind of run; give another --output"
        )
    if stored is None and not ledger.folder.is_empty():
        raise StorageError(
            f"the output must be a new place, but {redact(ledger.folder.url)} holds something that is no "
            "evaluation; give another --output"
        )
    if stored is not None and overwrite:
        _delete(planned)
    elif stored is not None:
        check_fingerprint(stored["fingerprint_fields"], planned.fingerprint_fields, ledger.folder.url)
        ledger.forget_failures()
    if stored is None or overwrite:
        ledger.write_plan(
            {
                "kind": KIND,
                "fingerprint": planned.spec.fingerprint,
                "fingerprint_fields": planned.fingerprint_fields,
            }
        )
    create_mosaic(planned.spec.errors, planned.spec.errors_layout)
    consolidate(planned.spec.errors)


def _delete(planned: PlannedEvaluation) -> None:
    """Remove what an evaluation leaves, and nothing else."""
    ledger = planned.spec.ledger
    planned.spec.errors.delete_all()
    ledger.forget_failures()
    for block in ledger.finished():
        ledger.forget(block)
    ledger.folder.delete(list(OWN_KEYS))


def _execute(
    planned: PlannedEvaluation, executor: Executor, stop: threading.Event, *, is_new: bool
) -> dict[str, str]:
    """Compare what is not compared; gives the blocks that failed, with their reasons."""
    ledger = planned.spec.ledger
    finished = ledger.finished()
    todo = [block for block in planned.blocks if block not in finished]
    progress, given_up, unknown = Progress(len(todo)), {}, {}

    def on_event(event: Event) -> None:
        progress.on_event(event)
        if isinstance(event, GivenUp):
            given_up[event.task] = event.reason
            ledger.record_failed(event.task, {"reason": event.reason, "traceback": event.details})
        elif isinstance(event, Finished) and event.record.get("unknown"):
            unknown.update(event.record["unknown"])
            stop.set()

    try:
        executor.run(functools.partial(EvaluateWorker, planned.spec), todo, on_event, stop)
    finally:
        progress.close()
    if unknown:
        if is_new:
            _delete(planned)  # the labels' meaning is a setting: with another one this is another evaluation
        raise SettingsError(_strange_values(planned.spec, unknown))
    return given_up


def _strange_values(spec: EvaluateSpec, unknown: Mapping[str, Mapping[str, int]]) -> str:
    classes = "classes of the mosaic, mapped by labels.values or listed in labels.ignore"
    told = [
        f"{', '.join(f'{value} ({pixels} px)' for value, pixels in sorted(values.items()))} "
        f"in {redact(spec.labels[int(index)].url)}"
        for index, values in sorted(unknown.items())
    ]
    return f"label values must be {classes}, got {'; '.join(told)}"


def _subject(planned: PlannedEvaluation) -> dict[str, Any]:
    """What was compared with what."""
    config, mosaic = planned.config, planned.mosaic
    return {
        "mosaic": redact(normalise_url(config.mosaic)),
        "model": mosaic.attributes.get("model"),
        "labels": [redact(normalise_url(url)) for url in config.labels.urls],
        "split": config.labels.split,
        "output": redact(planned.spec.ledger.folder.url),
        "error_map": redact(planned.spec.errors.url),
        "error_cog": None,
        "fingerprint": planned.spec.fingerprint,
        "settings": {
            name: planned.fingerprint_fields[name]
            for name in ("labels", "regions", "boundary", "reliability", "area", "block")
        },
        "colors": list(mosaic.layout.class_colors),
        "boundary_px": planned.spec.boundary_px,
        "cluster_px": planned.spec.cluster_px,
    }
