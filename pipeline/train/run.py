"""The whole of a training run: tiles → statistics → job → training → validation → checkpoint → report.

``<output>`` holds the checkpoint, ``<output>.run`` everything else. A run that was stopped goes on from its
newest state; one that is finished is left alone.
"""

import json
import logging
from dataclasses import replace
from typing import Any

from deeplab_core.metadata import METADATA_NAME, WEIGHTS_NAME
from pipeline.errors import StorageError
from pipeline.report.training import write_training_report
from pipeline.segment.ledger import check_fingerprint, fingerprint, to_bytes
from pipeline.storage import Folder, redact
from pipeline.train.board import FOLDER as BOARD
from pipeline.train.conclusion import Conclusion, conclude
from pipeline.train.config import TrainConfig
from pipeline.train.holding import Holding
from pipeline.train.job import TrainJob
from pipeline.train.resolve import make_job
from pipeline.train.run_log import LOG_KEY, read_log
from pipeline.train.state import STATES
from pipeline.train.tiles.tile_set import TileSet
from pipeline.train.workers.workplace import compute_at_work, train_at_work

logger = logging.getLogger(__name__)

SETTINGS_KEY = "train.json"
REPORT_KEY = "report.json"


def train(config: TrainConfig, *, overwrite: bool = False, tiles: TileSet | None = None) -> dict[str, Any]:
    """Train, or go on with it; gives the report, which is also stored beside the checkpoint.

    Args:
        config: Settings of the run.
        overwrite: Whether what the output holds is deleted first.
        tiles: The tile set, where it is known already; else the settings' own.
    """
    job = make_job(config, tiles)
    is_new = _begin(job, config, overwrite=overwrite)
    if (report := _stored_report(job)) is not None:
        logger.info("%s is finished already; nothing is done", redact(job.output))
        return report
    if not is_new:
        logger.info("going on with %s", redact(job.output))
    job = replace(job, holding=Holding.take(job.run_folder))
    _train(job, config)
    return _finish(job, config)


def _begin(job: TrainJob, config: TrainConfig, *, overwrite: bool) -> bool:
    """Make the output ready; whether the run is new."""
    output, run = Folder(job.output), job.run_folder
    stored = _read_json(run, SETTINGS_KEY)
    if overwrite:
        _check_that_it_is_ours(output, stored)
        output.delete([WEIGHTS_NAME, METADATA_NAME])
        run.delete_all()
        stored = None
    fields = job.fingerprint_fields()
    if stored is not None:
        check_fingerprint(stored["fingerprint_fields"], fields, job.output)
        return False
    if not output.is_empty():
        raise StorageError(
            f"the output must be a new place, but {redact(job.output)} holds something that is not a "
            "training run of this program; give another --output, or start over with --overwrite"
        )
    _forget_leftovers(run)
    document = {
        "fingerprint": fingerprint(fields),
        "fingerprint_fields": fields,
        "settings": config.model_dump(mode="json"),
    }
    run.write(SETTINGS_KEY, to_bytes(document))
    return True


def _forget_leftovers(run: Folder) -> None:
    """Without settings nobody knows whose states they are: a deletion that was cut short may leave some."""
    for name in (STATES, BOARD):
        run.child(name).delete_all()
    run.delete([LOG_KEY])


def _check_that_it_is_ours(output: Folder, stored: object) -> None:
    """Starting over deletes: never anything but a run of ours."""
    strangers = [found.key for found in output.listing() if found.key not in (WEIGHTS_NAME, METADATA_NAME)]
    if strangers or (stored is None and not output.is_empty()):
        raise StorageError(
            f"--overwrite deletes a training run of this program, but {redact(output.url)} holds something "
            "else; give another --output, or empty that place yourself"
        )


def _train(job: TrainJob, config: TrainConfig) -> None:
    position = job.states.position()
    if position is not None and position.finished:
        return  # a kill struck between the last step and the report
    train_at_work(job, config)


def _finish(job: TrainJob, config: TrainConfig) -> dict[str, Any]:
    """Have the best model validated and written, and tell."""
    conclusion = compute_at_work(job, config, conclude)
    report = _make_report(job, conclusion)
    job.run_folder.write(REPORT_KEY, to_bytes(report))
    try:
        write_training_report(job.run_folder.url)
    except StorageError as error:
        logger.warning("training is complete, but its page could not be written: %s", error)
    return report


def _make_report(job: TrainJob, conclusion: Conclusion) -> dict[str, Any]:
    best = conclusion.best
    last = job.states.position() or best
    paces = [record for record in read_log(job.run_folder) if record["kind"] == "pace"]
    pace = paces[-1] if paces else {}
    told = {split: validation.to_json() for split, validation in conclusion.found.items()}
    main = told.get("val") or told.get("test") or {}
    figures = ("miou", "iou", "mean_dice", "dice", "pixel_accuracy", "boundary_iou", "confusion")
    return {
        "status": "complete",
        "output": redact(job.output),
        **{name: main.get(name) for name in figures},
        "classes": list(job.tiles.classes),
        "steps": last.step,
        "best_step": best.step,
        "samples": last.sample,
        "seconds": last.elapsed_s,
        "cpu_seconds": last.cpu_s,
        **{name: pace.get(name) for name in ("images_per_s", "loading_images_per_s", "time_shares")},
        "splits": {split: len(job.tiles.of(split)) for split in ("train", "val", "test")},
        "validation": told,
        "bad_tiles": [{"id": bad.id, "reason": bad.reason} for bad in job.tiles.bad],
        "data_digest": job.tiles.digest,
        "model": job.model.model_dump(mode="json"),
        "sha256": conclusion.sha256,
        "parent": job.parent,
        "fingerprint": fingerprint(job.fingerprint_fields()),
    }


def _stored_report(job: TrainJob) -> dict[str, Any] | None:
    """The report of a run whose checkpoint is in place."""
    if not Folder(job.output).exists(METADATA_NAME):
        return None
    return _read_json(job.run_folder, REPORT_KEY)


def _read_json(folder: Folder, key: str) -> dict[str, Any] | None:
    try:
        document: dict[str, Any] = json.loads(folder.read(key))
    except FileNotFoundError:
        return None
    return document
