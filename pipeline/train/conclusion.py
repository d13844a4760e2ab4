"""The end of a run: its best model is validated, shown at work on tiles, and written as a checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from deeplab_core.checkpoint import save_checkpoint
from deeplab_core.model import build_model
from deeplab_core.segmenter import Segmenter
from pipeline.errors import StorageError
from pipeline.storage import Folder, redact
from pipeline.train.job import TrainJob
from pipeline.train.state import Position, read_position, read_tensors
from pipeline.train.steps.precision import choose_device
from pipeline.train.validation.tile_pictures import write_tile_pictures
from pipeline.train.validation.tile_segmenter import TileSegmenter
from pipeline.train.validation.validate import Validation, validate


@dataclass(frozen=True)
class Conclusion:
    """What there is to tell of a run that ended.

    Attributes:
        found: What the validation of each split found.
        best: Where the run stood when its model was best.
        sha256: Of the weights that were written.
    """

    found: Mapping[str, Validation]
    best: Position
    sha256: str


def conclude(job: TrainJob) -> Conclusion:
    """Validate the best model and write it, where the workers of training compute.

    Args:
        job: What was trained.
    """
    device = choose_device(job.gpus_per_worker)
    model, best = _best_model(job, device)
    how = job.inference(device)
    found = {
        split: validate(model, job.tiles, split, how, threads=job.threads)
        for split in ("val", "test")
        if job.tiles.of(split)
    }
    if job.holding is not None:
        job.holding.check()
    metadata = save_checkpoint(
        model,
        redact(job.output),
        mean=job.mean,
        std=job.std,
        bands=job.tiles.bands,
        colors=job.tiles.colors,
        lineage={"parent": job.parent, "data": _data(job), "metrics": _metrics(found)},
        write_bytes=Folder(job.output).write,
    )
    for validation in list(found.values())[:1]:
        segmenter = TileSegmenter(model, how)
        write_tile_pictures(job.run_folder, segmenter, job.tiles, validation, threads=job.threads)
    return Conclusion(found, best, metadata.sha256)


def _best_model(job: TrainJob, device: torch.device) -> tuple[Segmenter, Position]:
    """The model of the best stored state, by validation, or else of the newest; and where it stood."""
    store = job.states
    state = store.best()
    if state is None:
        raise StorageError(f"{redact(job.run_folder.url)} must hold a training state, but holds none")
    tensors = read_tensors(state, device)
    model = build_model(job.model.model_copy(update={"pretrained": False}))
    model.load_state_dict(tensors["average"] or tensors["model"])
    return model.to(device).eval(), read_position(state)


def _metrics(found: Mapping[str, Validation]) -> dict[str, float | None]:
    return {f"{split}_miou": validation.to_json()["miou"] for split, validation in found.items()}


def _data(job: TrainJob) -> dict[str, Any]:
    """What the model was trained on, for its lineage."""
    return {
        "tiles": redact(job.tiles.url),
        "digest": job.tiles.digest,
        "train": sorted(tile.id for tile in job.tiles.of("train")),
        "class_pixels": list(job.statistics.class_pixels),
    }
