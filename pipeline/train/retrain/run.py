"""The closed loop: new tiles → challenger → comparison with the champion → verdict.

A challenger is named by what it is made from, so that a run that was killed goes on with the same one, and a
second run on the same tiles finds the verdict and does nothing.
"""

import functools
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from deeplab_core.checkpoint import load_checkpoint
from pipeline.errors import SettingsError
from pipeline.registry import Holder, Registry
from pipeline.segment.inspect import read_model
from pipeline.segment.ledger import fingerprint, to_bytes
from pipeline.storage import Folder, redact
from pipeline.train.job import TrainJob
from pipeline.train.resolve import make_job
from pipeline.train.retrain.config import RetrainConfig
from pipeline.train.retrain.intake import Intake, contents, sort_tiles
from pipeline.train.retrain.verdict import Figures, Verdict, judge
from pipeline.train.run import train
from pipeline.train.steps.precision import choose_device
from pipeline.train.tiles.index import look_at_tiles
from pipeline.train.tiles.tile_set import TileSet
from pipeline.train.validation.validate import validate
from pipeline.train.workers.workplace import compute_at_work

logger = logging.getLogger(__name__)

FROZEN_KEY = "validation.json"
"""The validation split of the whole registry, frozen by its first version."""


@dataclass(frozen=True)
class Round:
    """One turn of the loop, before anything is trained.

    Attributes:
        registry: Where models are kept.
        holder: The champion; None before the first.
        tiles: All tiles.
        intake: What becomes of each.
        version: The challenger's name.
    """

    registry: Registry
    holder: Holder | None
    tiles: TileSet
    intake: Intake
    version: str

    @property
    def champion(self) -> str | None:
        """The champion's name."""
        return self.holder.champion.version if self.holder else None

    def to_json(self) -> dict[str, Any]:
        """What reports say of it."""
        intake = self.intake
        return {
            "registry": redact(self.registry.folder.url),
            "champion": self.champion,
            "challenger": self.version,
            "tiles": {
                "new": [tile.id for tile in intake.new],
                "replayed": len(intake.old),
                "left_out": [tile.id for tile in intake.rejected],
                "validation": len(intake.validation),
                "waiting": [tile.id for tile in intake.waiting],
            },
        }


def retrain(config: RetrainConfig, *, dry_run: bool = False) -> dict[str, Any]:
    """Turn the loop once; gives the report with the verdict.

    Args:
        config: Settings.
        dry_run: Say what would be done, and do nothing.
    """
    began = time.monotonic()
    round_ = _look(config, write=not dry_run)
    report: dict[str, Any] = {"status": "complete", **round_.to_json()}
    if round_.holder is not None and not round_.intake.new:
        logger.info("%s has seen every tile; nothing is done", round_.champion)
        return report | {"action": "nothing", "promoted": False, "verdict": None}
    too_few = _too_few(config, round_)
    if too_few is not None:
        if config.retrain.too_few == "refuse":
            raise SettingsError(too_few)
        logger.info("%s; nothing is done until there are", too_few)
        return report | {"action": "wait", "promoted": False, "verdict": None}
    _check_validation(round_)
    if dry_run:
        return report | {"action": "would train", "promoted": False, "verdict": None}
    figures = _train_and_compare(config, round_)
    verdict = judge(
        figures["challenger"],
        figures.get("champion"),
        margin=config.retrain.margin,
        max_class_drop=config.retrain.max_class_drop,
    )
    outcome = {
        "promoted": verdict.promoted,
        "verdict": list(verdict.reasons),
        "figures": {who: asdict(found) for who, found in figures.items()},
        "seconds": round(time.monotonic() - began, 1),
    }
    _conclude(round_, verdict, outcome)
    return report | outcome | {"action": "promoted" if verdict.promoted else "turned down"}


def _look(config: RetrainConfig, *, write: bool) -> Round:
    """The champion, the tiles, and what of them is new."""
    registry = Registry.at(config.registry.url)
    holder = registry.holder()
    record = (registry.record(holder.champion.version) or {}) if holder else {}
    classes = config.model.get("classes")  # the same every time, or the manifest would be another one's
    tiles = look_at_tiles(config.tiles, config.labels, classes, write=write)
    rejected: dict[str, str] = {}
    if not config.retrain.retry_rejected:
        for other in registry.records().values():
            rejected |= {} if other["promoted"] else other["new_tiles"]
    frozen = _read_frozen(registry)
    intake = sort_tiles(tiles, seen=record.get("seen_tiles", {}), frozen=frozen, rejected=rejected)
    return Round(registry, holder, tiles, intake, _name(config, holder, intake))


def _name(config: RetrainConfig, holder: Holder | None, intake: Intake) -> str:
    """A challenger is what it learns from, from where, and how."""
    made_from = {
        "champion": holder.champion.sha256 if holder else None,
        "tiles": contents((*intake.new, *intake.old)),
        "validation": contents(intake.validation),
        "new_share": config.retrain.new_share,
        "settings": config.model_dump(
            mode="json", include={"labels", "model", "train", "augment", "sampling", "validation"}
        ),
    }
    return f"v-{fingerprint(made_from)[:12]}"


def _too_few(config: RetrainConfig, round_: Round) -> str | None:
    """What is missing, in a sentence; None where there are enough."""
    intake, least = round_.intake, config.retrain.min_new_tiles
    if len(intake.new) >= least:
        return None
    left_out = f"; {len(intake.rejected)} came with one that was turned down" if intake.rejected else ""
    return (
        f"retraining takes at least {least} new training tiles (retrain.min_new_tiles), got "
        f"{len(intake.new)} that {round_.champion or 'nobody'} has not seen{left_out}"
    )


def _check_validation(round_: Round) -> None:
    if not round_.intake.validation:
        raise SettingsError(
            f"champion and challenger are compared on the validation split, but none of the tiles in "
            f"{redact(round_.tiles.url)} is in it; raise tiles.val_share"
        )


def _train_and_compare(config: RetrainConfig, round_: Round) -> dict[str, Figures]:
    """Figures of the challenger and, where there is one, of the champion, on the same tiles."""
    registry, intake, champion = round_.registry, round_.intake, round_.champion
    tiles = intake.tile_set(round_.tiles)
    if _read_frozen(registry) is None:
        registry.folder.write(FROZEN_KEY, to_bytes(contents(intake.validation)))
    training = config.training(
        output=registry.model_url(round_.version),
        init=registry.model_url(champion) if champion else None,
        weights=intake.weights(config.retrain.new_share),
    )
    train(training, tiles=tiles)
    models = {"challenger": registry.model_url(round_.version)}
    if champion is not None:
        models["champion"] = registry.model_url(champion)
    return compute_at_work(make_job(training, tiles), training, functools.partial(_compare, models=models))


def _compare(job: TrainJob, *, models: Mapping[str, str]) -> dict[str, Figures]:
    return {who: _figures(url, job) for who, url in models.items()}


def _figures(model_url: str, job: TrainJob) -> Figures:
    """How a model does on the frozen validation split, run as segment_region runs it."""
    folder = Folder(model_url)
    metadata = read_model(folder)
    how = replace(job.inference(choose_device(job.gpus_per_worker)), mean=metadata.mean, std=metadata.std)
    model = load_checkpoint(redact(folder.url), read_bytes=folder.read)
    found = validate(model, job.tiles, "val", how, threads=job.threads).to_json()
    return Figures(float("nan") if found["miou"] is None else found["miou"], found["iou"])


def _conclude(round_: Round, verdict: Verdict, outcome: Mapping[str, Any]) -> None:
    """Write the verdict down, then switch: a champion without a record would have seen nothing."""
    registry, intake = round_.registry, round_.intake
    sha256 = read_model(Folder(registry.model_url(round_.version))).sha256
    record = {
        "version": round_.version,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "parent": round_.champion,
        "sha256": sha256,
        "classes": list(round_.tiles.classes),
        "data": {"tiles": redact(round_.tiles.url), "digest": intake.tile_set(round_.tiles).digest},
        "new_tiles": contents(intake.new),
        "seen_tiles": contents((*intake.new, *intake.old)),
        **outcome,
    }
    registry.write_record(round_.version, record)
    if verdict.promoted:
        registry.promote(round_.version, sha256, round_.holder)


def _read_frozen(registry: Registry) -> dict[str, str] | None:
    try:
        frozen: dict[str, str] = json.loads(registry.folder.read(FROZEN_KEY))
    except FileNotFoundError:
        return None
    return frozen
