"""What a training run left in its folder, as stored: all that its report knows."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pipeline.errors import StorageError
from pipeline.report.pictures import NEUTRAL_COLOR, data_uri, safe_color
from pipeline.storage import Folder, redact, split_url

PICTURES_KEY = "validation/pictures.json"
RUN_SUFFIX = ".run"


@dataclass(frozen=True)
class TilePictures:
    """A tile with its pictures.

    Attributes:
        entry: What the index says of it.
        pictures: PNGs as data URIs: ``image``, ``truth``, ``prediction``.
    """

    entry: Mapping[str, Any]
    pictures: Mapping[str, str]


@dataclass(frozen=True)
class StoredTraining:
    """A training run as its folder tells it.

    Attributes:
        output_url: Where the checkpoint lies.
        report: ``report.json``.
        document: ``train.json``, written before the first step.
        log: ``log.jsonl``, a record a step or validation.
        model: ``model.json`` of the checkpoint; None before there is one.
        tiles: The worst and the best tiles of the last validation.
    """

    output_url: str
    report: Mapping[str, Any]
    document: Mapping[str, Any]
    log: Sequence[Mapping[str, Any]]
    model: Mapping[str, Any] | None
    tiles: Sequence[TilePictures]

    @property
    def name(self) -> str:
        """The checkpoint's name."""
        return split_url(self.output_url)[1]

    @cached_property
    def steps(self) -> Sequence[Mapping[str, Any]]:
        """A record a step."""
        return [record for record in self.log if record.get("kind") == "step"]

    @cached_property
    def validations(self) -> Sequence[Mapping[str, Any]]:
        """A record a validation between steps."""
        return [record for record in self.log if record.get("kind") == "validation"]

    @cached_property
    def pace(self) -> Mapping[str, Any] | None:
        """Where the time went, where the run came to its end."""
        return next((record for record in reversed(self.log) if record.get("kind") == "pace"), None)

    @cached_property
    def result(self) -> Mapping[str, Any]:
        """Figures of the final validation, else of the latest one; empty without any."""
        if self.report.get("confusion"):
            return self.report
        return self.validations[-1] if self.validations else {}

    @cached_property
    def classes(self) -> Sequence[str]:
        """Names of the classes."""
        if self.model is not None:
            return [str(name) for name in self.model["config"]["classes"]]
        return [str(name) for name in self.result.get("iou", {})]

    @cached_property
    def colors(self) -> Sequence[str]:
        """Their colours."""
        told = list(self.model["colors"]) if self.model is not None else []
        told += [NEUTRAL_COLOR] * (len(self.classes) - len(told))
        return [safe_color(str(color)) for color in told[: len(self.classes)]]


def read_training(run_url: str) -> StoredTraining:
    """Everything that a training run's folder holds, and the checkpoint's own description."""
    run = Folder.at(run_url)
    output_url = run.url.removesuffix(RUN_SUFFIX)
    report, document = _required(run, "report.json"), _required(run, "train.json")
    log = _optional(run, "log.jsonl")
    model = _optional(Folder(output_url), "model.json")
    return StoredTraining(
        output_url,
        report,
        document,
        # A kill may have cut the last line short.
        [json.loads(line) for line in (log or b"").splitlines(keepends=True) if line.endswith(b"}\n")],
        None if model is None else json.loads(model),
        _tiles(run),
    )


def _tiles(run: Folder) -> list[TilePictures]:
    index = _optional(run, PICTURES_KEY)
    if index is None:
        return []
    return [
        TilePictures(entry, {name: data_uri(run.read(key)) for name, key in entry["pictures"].items()})
        for entry in json.loads(index)
    ]


def _required(folder: Folder, key: str) -> dict[str, Any]:
    data = _optional(folder, key)
    if data is None:
        raise StorageError(
            f"a report is made of a training run that came to its end, but there is no {key} in "
            f"{redact(folder.url)}; run it again: it goes on where it stood"
        )
    document: dict[str, Any] = json.loads(data)
    return document


def _optional(folder: Folder, key: str) -> bytes | None:
    try:
        return folder.read(key)
    except FileNotFoundError:
        return None


def figure(value: object) -> float:
    """A stored figure as a number; NaN where nothing was counted, which JSON says as null."""
    return float(value) if isinstance(value, int | float) else math.nan
