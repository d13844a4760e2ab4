"""What an evaluation will do: mosaic and labels looked at, sizes decided, everything that counts named."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.raster.gdal_source import identify
from pipeline.raster.mosaic import Mosaic, MosaicLayout
from pipeline.report.evaluation import ERRORS_NAME
from pipeline.segment.ledger import Ledger, fingerprint
from pipeline.segment.plan import Block
from pipeline.software import software
from pipeline.storage import Folder, normalise_url, redact
from pipeline.train.evaluate.find_labels import find_labels, find_regions
from pipeline.train.evaluate.scene import Scene
from pipeline.train.evaluate.settings import EvaluateConfig
from pipeline.train.evaluate.worker import EvaluateSpec, LabelSource

RESULT_VERSION = 1
"""To be raised when the same settings give other figures than before."""

KIND = "evaluation"

ERROR_CLASSES = ("right", "wrong")
ERROR_COLORS = ("#2f8f6b", "#c8402f")

WIDEST_BOUNDARY_PX = 15
"""2 % of the diagonal of a 513 px crop: beyond, the band of a large mosaic would say nothing of contours."""

SMALLEST_CLUSTER_PX = 256
MOST_CLUSTERS = 1 << 16
"""Squares that a mosaic is cut into, so that the driver's memory does not grow with it."""


@dataclass(frozen=True)
class PlannedEvaluation:
    """An evaluation, before it runs."""

    config: EvaluateConfig
    mosaic: Mosaic
    spec: EvaluateSpec
    region_names: tuple[str, ...]
    fingerprint_fields: Mapping[str, Any]
    blocks: tuple[str, ...]


def plan_evaluation(config: EvaluateConfig) -> PlannedEvaluation:
    """Look at the mosaic and its labels; refuses what cannot be compared."""
    mosaic = Mosaic.open(config.mosaic)
    scene = Scene.of(mosaic)
    output = Folder.at(config.output)
    labels = find_labels(config.labels, scene)
    regions, region_names = find_regions(config.regions, scene)
    boundary_px, cluster_px = _boundary_px(config, mosaic), _cluster_px(config, mosaic)
    fields = _fields(config, labels, boundary_px, cluster_px)
    spec = EvaluateSpec(
        mosaic_url=normalise_url(config.mosaic),
        labels=labels,
        regions=regions,
        block_px=config.block.size_px,
        boundary_px=boundary_px,
        bins=config.reliability.bins,
        cluster_px=cluster_px,
        errors=output.child(ERRORS_NAME),
        errors_layout=_errors_layout(mosaic, config),
        ledger=Ledger(output),
        fingerprint=fingerprint(fields),
    )
    return PlannedEvaluation(
        config, mosaic, spec, region_names, fields, _blocks(mosaic, config.block.size_px)
    )


def _fields(
    config: EvaluateConfig, labels: tuple[LabelSource, ...], boundary_px: int, cluster_px: int
) -> dict[str, Any]:
    """Everything that the figures depend on, by name, as JSON gives it back."""
    regions_url = normalise_url(config.regions.url) if config.regions.url else None
    urls = [redact(normalise_url(url)) for url in config.labels.urls]
    files = fingerprint({"files": [asdict(identify(source.url)) for source in labels]})
    fields = {
        "result_version": RESULT_VERSION,
        "kind": KIND,
        "mosaic": {"url": redact(normalise_url(config.mosaic)), "contents": _contents(config.mosaic)},
        "labels": config.labels.model_dump(mode="json") | {"urls": urls, "files": files},
        "regions": {
            "url": redact(regions_url) if regions_url else None,
            "property": config.regions.property,
            "file": asdict(identify(regions_url)) if regions_url else None,
        },
        "boundary": {"width_px": boundary_px},
        "reliability": config.reliability.model_dump(mode="json"),
        "area": {"cluster_px": cluster_px},
        "block": config.block.model_dump(mode="json"),
    }
    stored: dict[str, Any] = json.loads(json.dumps(fields))
    return stored


def _boundary_px(config: EvaluateConfig, mosaic: Mosaic) -> int:
    width = config.boundary.width_px
    if width != "auto":
        return width
    diagonal = (mosaic.grid.height**2 + mosaic.grid.width**2) ** 0.5
    return max(1, min(WIDEST_BOUNDARY_PX, round(0.02 * diagonal)))


def _cluster_px(config: EvaluateConfig, mosaic: Mosaic) -> int:
    if config.area.cluster_px != "auto":
        return config.area.cluster_px
    side = SMALLEST_CLUSTER_PX
    while -(-mosaic.grid.height // side) * -(-mosaic.grid.width // side) > MOST_CLUSTERS:
        side *= 2
    return side


def _contents(mosaic_url: str) -> str:
    """One name for the mosaic's objects as they are now: a run that went on since is another mosaic."""
    digest = hashlib.sha256()
    folder = Folder.at(mosaic_url)
    for name in ("classes/", "confidence/"):
        for found in sorted(folder.listing(name), key=lambda one: one.key):
            digest.update(f"{found.key} {found.size_bytes} {found.modified}\n".encode())
    return digest.hexdigest()[:16]


def _errors_layout(mosaic: Mosaic, config: EvaluateConfig) -> MosaicLayout:
    return MosaicLayout(
        grid=mosaic.grid,
        class_names=ERROR_CLASSES,
        class_colors=ERROR_COLORS,
        logits="none",
        node_px=mosaic.layout.node_px,
        attributes={
            "evaluates": redact(normalise_url(config.mosaic)),
            "labels": [redact(normalise_url(url)) for url in config.labels.urls],
            "source_origin": mosaic.attributes.get("source_origin", [0, 0]),
            "software": software(),
        },
    )


def _blocks(mosaic: Mosaic, side_px: int) -> tuple[str, ...]:
    rows, cols = (-(-size // side_px) for size in mosaic.grid.window.shape)
    return tuple(Block(row, col).id for row in range(rows) for col in range(cols))
