"""The table: rivals and a trained model, all judged on one split of one tile set, pixel by pixel the same.

Every row learnt from the training split alone and counts on the same pixels: those with a label and imagery.
A trained model is run as ``jobs/train.py`` validates it.
"""

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from deeplab_core.checkpoint import load_checkpoint
from deeplab_core.metadata import CheckpointError, CheckpointMetadata
from deeplab_core.prepare import PrecisionChoice
from deeplab_core.segmenter import Segmenter
from pipeline.errors import MismatchError, ModelError, SettingsError
from pipeline.raster.window import Window
from pipeline.segment.machine import this_machine
from pipeline.storage import Folder, normalise_url, redact
from pipeline.train.baselines.judged import Judged, count, figures
from pipeline.train.baselines.pixel_model import PixelModel, fit
from pipeline.train.baselines.plain_script import learn, predict
from pipeline.train.baselines.settings import BaselinesConfig, View
from pipeline.train.run import REPORT_KEY, SETTINGS_KEY
from pipeline.train.samples.sample import normalise
from pipeline.train.steps.precision import choose_device
from pipeline.train.tiles.index import load_tile_set
from pipeline.train.tiles.statistics import TileStatistics, training_statistics
from pipeline.train.tiles.tile_reader import IGNORE, TileReader
from pipeline.train.tiles.tile_set import TileSet
from pipeline.train.validation.tile_segmenter import Inference
from pipeline.train.validation.validate import validate

logger = logging.getLogger(__name__)

SAMPLE_PX = 200_000
"""Pixels to fit a few dozen numbers to; more would not move the third digit."""

STRIP_PX = 512


@dataclass(frozen=True)
class Trained:
    """A model that ``jobs/train.py`` made, and what its run says of itself.

    Attributes:
        model: The network.
        metadata: What its checkpoint says.
        report: Of its run; empty where only the checkpoint was kept.
        view: How its run validated it.
        precision: In which number format.
    """

    model: Segmenter
    metadata: CheckpointMetadata
    report: Mapping[str, Any]
    view: View
    precision: PrecisionChoice


def compare(config: BaselinesConfig) -> dict[str, Any]:
    """Make the table; gives the report.

    Args:
        config: What is compared, and on which tiles.
    """
    trained = None if config.model is None else _read_trained(config.model)
    tiles = load_tile_set(config.tiles, config.labels, trained.metadata.classes if trained else None)
    if trained is not None:
        _check_same_split(tiles, trained, str(config.model))
    table = _Table(config, tiles, trained)
    rows: list[dict[str, Any]] = []
    for name in config.rows:
        for row in table.rows(name):
            logger.info("%s: mIoU %s", row["name"], row.get("miou", row.get("missing")))
            rows.append(row)
    return {
        "status": "complete",
        "tiles": redact(tiles.url),
        "data_digest": tiles.digest,
        "split": config.split,
        "judged_on": [tile.id for tile in tiles.of(config.split)],
        "classes": list(tiles.classes),
        "rows": rows,
    }


class _Table:
    """Makes rows; whatever several of them need is made once."""

    def __init__(self, config: BaselinesConfig, tiles: TileSet, trained: Trained | None) -> None:
        if not tiles.of(config.split):
            raise SettingsError(
                f"the split {config.split!r} must hold tiles to judge on, but none of {len(tiles.tiles)} in "
                f"{redact(tiles.url)} is in it; index them with tiles.{config.split}_share above 0"
            )
        self._config, self._tiles, self._trained = config, tiles, trained
        self._statistics = training_statistics(tiles)
        machine = this_machine()
        self._device = choose_device(machine.gpus)
        self._threads = machine.cores if config.threads == "auto" else config.threads
        self._crops = _crops_of_script(config, trained)
        self._pixel_model: PixelModel | None = None

    def rows(self, name: str) -> Iterator[dict[str, Any]]:
        """The row of a name, or the rows; none for a model that is not given."""
        match name:
            case "majority":
                yield self._by_pixels("majority class", self._commonest)
            case "logistic":
                yield self._by_pixels("logistic regression of the bands", self._likeliest)
            case "script":
                yield self._script()
            case "model" if self._trained is not None:
                yield from self._model(self._trained)

    def _commonest(self, image_CHW: NDArray[np.float32]) -> NDArray[np.uint8]:
        most = int(np.argmax(self._statistics.class_pixels))
        return np.full(image_CHW.shape[1:], most, np.uint8)

    def _likeliest(self, image_CHW: NDArray[np.float32]) -> NDArray[np.uint8]:
        if self._pixel_model is None:
            self._pixel_model = _fitted(self._tiles, self._statistics)
        return self._pixel_model.predict(image_CHW.reshape(len(image_CHW), -1)).reshape(image_CHW.shape[1:])

    def _by_pixels(
        self, name: str, classify: Callable[[NDArray[np.float32]], NDArray[np.uint8]]
    ) -> dict[str, Any]:
        strips = _strips(self._tiles, self._config.split, self._statistics)
        judged = (Judged(each.tile, each.window, classify(each.image_CHW), each.labels_HW) for each in strips)
        return {"name": name} | self._figures(judged)

    def _figures(self, judged: Iterable[Judged]) -> dict[str, Any]:
        classes = self._tiles.classes
        return figures(classes, *count(judged, len(classes)))

    def _script(self) -> dict[str, Any]:
        settings, statistics = self._config.script, self._statistics
        name = f"plain script, smp DeepLabV3Plus {settings.encoder}"
        threads_before = torch.get_num_threads()
        torch.set_num_threads(self._threads)
        try:
            learnt = learn(self._tiles, statistics, settings, crops=self._crops, device=self._device)
            judged = predict(learnt.model, self._tiles, self._config.split, statistics, device=self._device)
            found = self._figures(judged)
        except ImportError as error:
            return {"name": name, "missing": str(error)}
        finally:
            torch.set_num_threads(threads_before)
        price = {"steps": learnt.steps, "crops": learnt.crops, "processor_s": round(learnt.processor_s, 1)}
        return {"name": name} | found | price

    def _model(self, trained: Trained) -> Iterator[dict[str, Any]]:
        views = self._config.views
        if views == "auto":
            views = (trained.view, trained.view.at_more_scales())
        price = {"steps": trained.report.get("steps"), "crops": trained.report.get("samples")}
        graph = trained.metadata.config
        for view in views:
            found = self._validated(trained, view)
            yield {"name": f"trained model, {graph.arch} {graph.backbone}, {view}"} | found | price

    def _validated(self, trained: Trained, view: View) -> dict[str, Any]:
        found = validate(
            trained.model,
            self._tiles,
            self._config.split,
            Inference(
                trained.metadata.mean,
                trained.metadata.std,
                self._device,
                crop_px=self._config.crop.size_px,
                stride_px=self._config.crop.stride_px,
                scales=view.scales,
                flips=view.flips,
                precision=trained.precision,
            ),
            threads=self._threads,
        )
        return figures(self._tiles.classes, found.confusion, found.per_tile)


def _read_trained(url: str) -> Trained:
    folder = Folder.at(url)
    try:
        model = load_checkpoint(redact(folder.url), read_bytes=folder.read)
    except CheckpointError as error:
        raise ModelError(f"model: {error}") from error
    assert model.metadata is not None  # noqa: S101 - a loaded checkpoint has them
    run = Folder(f"{normalise_url(url)}.run")
    report, settings = (_read_json(run, key) for key in (REPORT_KEY, SETTINGS_KEY))
    validation = settings.get("settings", {}).get("validation", {})
    view = View(scales=validation.get("scales", (1.0,)), flips=validation.get("flips", ()))
    precision = settings.get("settings", {}).get("train", {}).get("precision", "auto")
    return Trained(model, model.metadata, report, view, precision)


def _read_json(folder: Folder, key: str) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(folder.read(key))
    except FileNotFoundError:
        return {}
    return document


def _check_same_split(tiles: TileSet, trained: Trained, url: str) -> None:
    """A model that saw a tile it is judged on proves nothing."""
    data = trained.metadata.lineage.data
    learnt_from = data.get("digest") if isinstance(data, dict) else None
    if learnt_from != tiles.digest:
        raise MismatchError(
            f"the model must have learnt from this very tile set and split, {tiles.digest[:12]}, but "
            f"{redact(url)} names {str(learnt_from)[:12]}; give --tiles and tiles.manifest as its run had "
            "them, or train it again"
        )


def _crops_of_script(config: BaselinesConfig, trained: Trained | None) -> int | None:
    """After how many crops the script ends; refused where it would have no end."""
    script = config.script
    if script.crops != "auto":
        return script.crops
    if script.minutes is not None or "script" not in config.rows:
        return None
    samples = trained.report.get("samples") if trained else None
    if samples is None:
        raise SettingsError(
            "the script needs an end: give script.crops, script.minutes, or with --model a model whose run "
            f"({'<model>.run' if trained is None else redact(str(config.model)) + '.run'}) is at hand"
        )
    return int(samples)


def _fitted(tiles: TileSet, statistics: TileStatistics) -> PixelModel:
    """The pixel model of the training split: every n-th labelled pixel."""
    every = max(1, sum(statistics.class_pixels) // SAMPLE_PX)
    bands, labels = [], []
    for strip in _strips(tiles, "train", statistics):
        chosen = np.flatnonzero(strip.labels_HW != IGNORE)[::every]
        bands.append(strip.image_CHW.reshape(len(tiles.bands), -1)[:, chosen])
        labels.append(strip.labels_HW.ravel()[chosen])
    return fit(np.concatenate(bands, axis=1), np.concatenate(labels), num_classes=len(tiles.classes))


@dataclass(frozen=True)
class _Strip:
    """Some rows of a tile, normalised."""

    tile: str
    window: Window
    image_CHW: NDArray[np.float32]
    labels_HW: NDArray[np.uint8]


def _strips(tiles: TileSet, split: str, statistics: TileStatistics) -> Iterator[_Strip]:
    """All of a split, a strip at a time."""
    mean_C, std_C = np.array(statistics.mean, np.float32), np.array(statistics.std, np.float32)
    with closing(TileReader(tiles)) as reader:
        for tile in tiles.of(split):
            whole = tile.grid.window
            for row in range(0, whole.height, STRIP_PX):
                window = Window(row, 0, STRIP_PX, whole.width).intersect(whole)
                crop = normalise(reader.read(tile, window), mean_C, std_C)
                yield _Strip(tile.id, window, crop.image.numpy(), crop.labels[0].numpy())
