"""From settings to a job: tiles, statistics, the graph, and every "auto" decided."""

import fnmatch
import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from deeplab_core.checkpoint import load_metadata
from deeplab_core.config import ModelConfig
from deeplab_core.losses import build_loss
from deeplab_core.metadata import CheckpointError, CheckpointMetadata
from pipeline.errors import ModelError, SettingsError
from pipeline.segment.machine import this_machine
from pipeline.segment.resolve import Machine
from pipeline.storage import Folder, normalise_url, redact
from pipeline.train.config import SamplingSettings, TrainConfig, TrainSettings
from pipeline.train.job import TrainJob
from pipeline.train.samples.sample import make_sampler
from pipeline.train.steps.optimizer import plan_optimizer
from pipeline.train.tiles.index import load_tile_set
from pipeline.train.tiles.statistics import TileStatistics, training_statistics
from pipeline.train.tiles.tile_set import TileSet

logger = logging.getLogger(__name__)

LOADERS = {"cpu": 2, "gpu": 8}
MIB = 1 << 20


def make_job(config: TrainConfig, tiles: TileSet | None = None) -> TrainJob:
    """The job that settings describe, refused where it cannot run.

    Args:
        config: Settings of the run.
        tiles: The tile set, where it is known already; else the settings' own.
    """
    parent = _read_parent(config.train.init)
    given = config.model.get("classes") or (parent.classes if parent else None)
    tiles = tiles or load_tile_set(config.tiles, config.labels, given)
    model = _model_of(config, tiles, parent)
    statistics = training_statistics(tiles)
    machine = this_machine()
    workers = worker_range(config.train)
    job = TrainJob(
        tiles=tiles,
        statistics=statistics,
        model=model,
        mean=parent.mean if parent else statistics.mean,
        std=parent.std if parent else statistics.std,
        train=config.train,
        optimizer=plan_optimizer(config.train, pretrained=model.pretrained and parent is None),
        augment=config.augment,
        validation=config.validation,
        rare_share=config.sampling.rare_share,
        tile_weights=_tile_weights(config.sampling, tiles),
        output=normalise_url(config.output.url),
        threads=_threads(config, machine, workers[1]),
        gpus_per_worker=_gpus(config, machine),
        loaders=_loaders(config, machine),
        loader_kind=config.compute.loader_kind,
        cache_bytes=int(config.compute.cache_mib * MIB),
        parent=parent.sha256 if parent else None,
    )
    _check_crop(job)
    for count in sorted(set(workers)):
        _check_batch(job, count)
    _check_loss(job)
    make_sampler(job.samples)  # refuses where nothing can be drawn
    _warn_of_absent_classes(statistics, tiles)
    _warn_of_taps_that_never_learn(job)
    return job


def worker_range(train: TrainSettings) -> tuple[int, int]:
    """The fewest and the most workers.

    Args:
        train: Settings of the run.
    """
    workers = train.workers
    return (workers, workers) if isinstance(workers, int) else workers


def fit_to_cluster(job: TrainJob, config: TrainConfig, cluster: Machine) -> TrainJob:
    """The job with threads and GPUs that fit a cluster's nodes: the driver's need not be like them.

    Args:
        job: What this machine made of the settings.
        config: The settings: only what they leave open changes.
        cluster: All nodes together.
    """
    gpus, threads = job.gpus_per_worker, job.threads
    if config.compute.gpus_per_worker == "auto":
        gpus = 1.0 if cluster.gpus else 0.0
    if config.compute.threads_per_worker == "auto":
        _, most = worker_range(config.train)
        threads = max(1, cluster.cores // math.ceil(most / cluster.nodes))
    return replace(job, gpus_per_worker=gpus, threads=threads)


def _read_parent(url: str | None) -> CheckpointMetadata | None:
    if url is None:
        return None
    folder = Folder.at(url)
    try:
        return load_metadata(redact(folder.url), read_bytes=folder.read)
    except CheckpointError as error:
        raise ModelError(f"train.init: {error}") from error


def _model_of(config: TrainConfig, tiles: TileSet, parent: CheckpointMetadata | None) -> ModelConfig:
    given = dict(config.model)
    from_tiles: dict[str, Any] = {"classes": tiles.classes, "bands": tiles.bands}
    for name, values in from_tiles.items():
        _check_equal(f"model.{name}", given.get(name), "the tiles'", values)
    if parent is None:
        if given.get("image_pooling") == "fixed":
            given.setdefault("image_pooling_crop_px", config.train.crop_px)
        return _checked(given | from_tiles)
    where = f"those of train.init ({redact(str(config.train.init))}),"
    _check_equal("classes of the tiles", tiles.classes, where, parent.classes)
    _check_equal("bands of the tiles", tiles.bands, where, parent.bands)
    model = parent.config
    asked = _checked(model.model_dump() | given | {"classes": tiles.classes})
    for name in given:
        if name != "pretrained":
            _check_equal(f"model.{name}", getattr(asked, name), "that of train.init,", getattr(model, name))
    return model


def _checked(values: Mapping[str, Any]) -> ModelConfig:
    try:
        return ModelConfig.model_validate(values)
    except ValidationError as error:
        faults = "; ".join(fault["msg"].removeprefix("Value error, ") for fault in error.errors())
        raise SettingsError(f"model: {faults}") from error


def _check_equal(name: str, got: object, whose: str, expected: object) -> None:
    if isinstance(got, list):
        got = tuple(got)
    if got is not None and got != expected:
        told = [list(value) if isinstance(value, tuple) else value for value in (expected, got)]
        raise ModelError(f"{name} must be {whose} {told[0]}, got {told[1]}")


def _tile_weights(sampling: SamplingSettings, tiles: TileSet) -> dict[str, float] | None:
    """Of patterns that fit one tile the last counts, as with settings; one that fits none is a slip."""
    if not sampling.weights:
        return None
    weights = {tile.id: 1.0 for tile in tiles.of("train")}
    for pattern, weight in sampling.weights.items():
        fitting = [pattern] if pattern in weights else fnmatch.filter(weights, pattern)
        if not fitting:
            raise SettingsError(
                f"sampling.weights: {pattern!r} must fit the id of a training tile, but fits none of "
                f"{len(weights)}, such as {next(iter(weights), 'none')!r}"
            )
        weights.update(dict.fromkeys(fitting, weight))
    return weights


def _threads(config: TrainConfig, machine: Machine, workers: int) -> int:
    chosen = config.compute.threads_per_worker
    return max(1, machine.cores // workers) if chosen == "auto" else chosen


def _gpus(config: TrainConfig, machine: Machine) -> float:
    chosen = config.compute.gpus_per_worker
    return float(bool(machine.gpus)) if chosen == "auto" else chosen


def _loaders(config: TrainConfig, machine: Machine) -> int:
    chosen = config.compute.loaders
    return LOADERS["gpu" if machine.gpus else "cpu"] if chosen == "auto" else chosen


def _warn_of_taps_that_never_learn(job: TrainJob) -> None:
    """Taps beyond every training crop stay as chance made them, and have their say in larger crops."""
    features = (job.train.crop_px - 1) // job.model.output_stride + 1
    beyond = [rate for rate in job.model.rates if rate >= features]
    if beyond and job.model.provider == "deeplab" and job.parent is None:
        logger.warning(
            "the outer taps of model.rates %s will never learn, because train.crop_px = %d gives %d features "
            "along a side, and they will disturb the larger crops of inference; take larger crops, or rates "
            "of at most %d",
            ", ".join(map(str, beyond)),
            job.train.crop_px,
            features,
            max(1, (features - 1) // 2),
        )


def _warn_of_absent_classes(statistics: TileStatistics, tiles: TileSet) -> None:
    """What was never seen is never predicted; with small sets that is often the split's doing."""
    counted = zip(tiles.classes, statistics.class_pixels, strict=True)
    absent = [name for name, pixels in counted if not pixels]
    if absent:
        logger.warning(
            "no tile of the training split holds %s: it will not be learnt; label more, or let another "
            "tiles.seed or tiles.split_block_m split them",
            ", ".join(absent),
        )


def _check_crop(job: TrainJob) -> None:
    multiple, crop_px = job.model.output_stride, job.train.crop_px
    if job.model.provider == "deeplab" and (crop_px - 1) % multiple:
        below = max(1, (crop_px - 1) // multiple) * multiple + 1
        raise SettingsError(
            f"train.crop_px must be a multiple of model.output_stride = {multiple} plus 1, got {crop_px}; "
            f"take {below} or {below + multiple}"
        )


def _check_loss(job: TrainJob) -> None:
    try:
        build_loss(
            job.train.loss.config(),
            num_classes=job.model.num_classes,
            class_counts=job.statistics.class_pixels,
        )
    except ValueError as error:
        raise SettingsError(f"train.loss: {error}") from error


def _check_batch(job: TrainJob, workers: int) -> None:
    """Batch norms in training need two crops at least, since image pooling leaves one value of each."""
    train = job.train
    batch = train.batch * (workers if train.batch_of == "worker" else 1)
    at_once = math.floor(batch / train.accumulate / (1 if train.sync_bn else workers))
    if at_once < 2 and not train.freeze_bn:
        raise SettingsError(
            "batch norms must see at least 2 crops at a time, got "
            f"{at_once} (train.batch {batch} crops in train.accumulate {train.accumulate} parts"
            f"{'' if train.sync_bn else f' on {workers} workers without train.sync_bn'}); raise train.batch "
            "or set train.freeze_bn"
        )
