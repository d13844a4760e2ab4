"""The whole of a training run: tiles → statistics → job → training → validation → checkpoint → report.

``<output>`` holds the checkpoint, ``<output>.run`` everything else. A run that was stopped goes on from its
newest state; one that is finished is left alone.
"""

import json
import logging
from collections.abc import Mapping
from typing import Any

from deeplab_core.checkpoint import save_checkpoint
from deeplab_core.metadata import METADATA_NAME, WEIGHTS_NAME, CheckpointMetadata
from deeplab_core.model import build_model
from deeplab_core.segmenter import Segmenter
from pipeline.errors import StorageError
from pipeline.report.training import write_training_report
from pipeline.segment.ledger import check_fingerprint, fingerprint, to_bytes
from pipeline.segment.run import stop_on_signals
from pipeline.storage import Folder, redact
from pipeline.train.config import TrainConfig
from pipeline.train.job import TrainJob
from pipeline.train.local_workers import train_here, train_in_processes
from pipeline.train.precision import choose_device
from pipeline.train.resolve import make_job, most_workers
from pipeline.train.run_log import read_log
from pipeline.train.state import Position, StateStore, read_position, read_tensors
from pipeline.train.tile_pictures import write_tile_pictures
from pipeline.train.tile_segmenter import TileSegmenter
from pipeline.train.tiles.tile_set import TileSet
from pipeline.train.validate import Validation, validate

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
    _train(job, config)
    return _finish(job)


def best_model(job: TrainJob) -> tuple[Segmenter, Position]:
    """The model of the best stored state, by validation, or else of the newest; and where it stood.

    Args:
        job: What was trained.
    """
    state = StateStore(job.run_folder, job.train.keep).best()
    if state is None:
        raise StorageError(f"{redact(job.run_folder.url)} must hold a training state, but holds none")
    device = choose_device(job.gpus_per_worker)
    tensors = read_tensors(state, device)
    model = build_model(job.model.model_copy(update={"pretrained": False}))
    model.load_state_dict(tensors["average"] or tensors["model"])
    return model.to(device).eval(), read_position(state)


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
    document = {
        "fingerprint": fingerprint(fields),
        "fingerprint_fields": fields,
        "settings": config.model_dump(mode="json"),
    }
    run.write(SETTINGS_KEY, to_bytes(document))
    return True


def _check_that_it_is_ours(output: Folder, stored: object) -> None:
    """Starting over deletes: never anything but a run of ours."""
    strangers = [found.key for found in output.listing() if found.key not in (WEIGHTS_NAME, METADATA_NAME)]
    if strangers or (stored is None and not output.is_empty()):
        raise StorageError(
            f"--overwrite deletes a training run of this program, but {redact(output.url)} holds something "
            "else; give another --output, or empty that place yourself"
        )


def _train(job: TrainJob, config: TrainConfig) -> None:
    state = StateStore(job.run_folder, job.train.keep).newest()
    if state is not None and read_position(state).finished:
        return  # a kill struck between the last step and the report
    workers = most_workers(config)
    executor = config.compute.executor
    if executor == "ray" or (executor == "auto" and workers > 1):
        # Ray is imported only where it is used: everything else works where it is not installed.
        from pipeline.train.trainer import train_on_ray  # noqa: PLC0415

        train_on_ray(job, config)
        return
    with stop_on_signals() as stop:
        if workers == 1:
            train_here(job, stop)
        else:
            train_in_processes(job, workers, stop)


def _finish(job: TrainJob) -> dict[str, Any]:
    """Validate the best model, write it, tell."""
    model, position = best_model(job)
    found = {split: _validate(job, model, split) for split in ("val", "test") if job.tiles.of(split)}
    metrics = {f"{split}_miou": validation.to_json()["miou"] for split, validation in found.items()}
    metadata = save_checkpoint(
        model,
        redact(job.output),
        mean=job.mean,
        std=job.std,
        bands=job.tiles.bands,
        colors=job.tiles.colors,
        lineage={"parent": job.parent, "data": _data(job), "metrics": metrics},
        write_bytes=Folder(job.output).write,
    )
    report = _make_report(job, found, metadata, position)
    _write_pictures(job, model, found)
    job.run_folder.write(REPORT_KEY, to_bytes(report))
    try:
        write_training_report(job.run_folder.url)
    except StorageError as error:
        logger.warning("training is complete, but its page could not be written: %s", error)
    return report


def _write_pictures(job: TrainJob, model: Segmenter, found: Mapping[str, Validation]) -> None:
    """The worst and the best tiles of the first split that was validated."""
    for validation in list(found.values())[:1]:
        segmenter = TileSegmenter(model, **_inference(job))
        write_tile_pictures(job.run_folder, segmenter, job.tiles, validation, threads=job.threads)


def _validate(job: TrainJob, model: Segmenter, split: str) -> Validation:
    return validate(model, job.tiles, split, threads=job.threads, **_inference(job))


def _inference(job: TrainJob) -> dict[str, Any]:
    """How the network is run over tiles."""
    settings = job.validation
    return {
        "mean": job.mean,
        "std": job.std,
        "crop_px": settings.crop.size_px,
        "stride_px": settings.crop.stride_px,
        "scales": settings.scales,
        "flips": settings.flips,
        "precision": job.train.precision,
        "device": choose_device(job.gpus_per_worker),
    }


def _data(job: TrainJob) -> dict[str, Any]:
    """What the model was trained on, for its lineage."""
    return {
        "tiles": redact(job.tiles.url),
        "digest": job.tiles.digest,
        "train": sorted(tile.id for tile in job.tiles.of("train")),
        "class_pixels": list(job.statistics.class_pixels),
    }


def _make_report(
    job: TrainJob, found: dict[str, Validation], metadata: CheckpointMetadata, best: Position
) -> dict[str, Any]:
    newest = StateStore(job.run_folder, job.train.keep).newest()
    last = read_position(newest) if newest else best
    paces = [record for record in read_log(job.run_folder) if record["kind"] == "pace"]
    pace = paces[-1] if paces else {}
    told = {split: validation.to_json() for split, validation in found.items()}
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
        **{name: pace.get(name) for name in ("images_per_s", "loading_images_per_s", "time_shares")},
        "splits": {split: len(job.tiles.of(split)) for split in ("train", "val", "test")},
        "validation": told,
        "bad_tiles": [{"id": bad.id, "reason": bad.reason} for bad in job.tiles.bad],
        "data_digest": job.tiles.digest,
        "model": job.model.model_dump(mode="json"),
        "sha256": metadata.sha256,
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
