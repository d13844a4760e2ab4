"""A mosaic that errs in known ways, labels in many forms, and what comparing them must give."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import rasterio

from deeplab_core.metrics import BoundaryIoU
from pipeline.storage import Folder
from pipeline.train.evaluate.run import evaluate
from pipeline.train.evaluate.settings import EvaluateConfig
from tests.pipeline.raster.mosaics import UPRIGHT, UTM, Contents, make_contents

UNLABELLED = 255
NAMES = ("class 0", "class 1", "class 2")


def truth_of(contents: Contents, *, seed: int = 1, errors: float = 0.2, unlabelled: bool = True):
    """Labels that the mosaic mostly has right: patches of another class, and a part that nobody labelled."""
    random = np.random.default_rng(seed)
    height, width = contents.classes.shape
    truth = np.where(contents.classes == contents.layout.class_nodata, 1, contents.classes).astype(np.uint8)
    coarse = random.random((height // 16 + 1, width // 16 + 1)) < errors
    wrong = np.kron(coarse, np.ones((16, 16), bool))[:height, :width]
    truth[wrong] = (truth[wrong] + 1) % contents.layout.num_classes
    if unlabelled:
        truth[: height // 5] = UNLABELLED
        truth[random.random(truth.shape) < 0.01] = UNLABELLED
    return truth


def write_mosaic(
    path: Path, height: int = 1200, width: int = 1500, *, attributes=None, **contents
) -> Contents:
    found = make_contents(height, width, **contents)
    if attributes:
        found = replace(found, layout=replace(found.layout, attributes=attributes))
    found.write(Folder.at(path))
    return found


def write_labels(path: Path, labels, *, transform=UPRIGHT, crs=UTM, **profile) -> Path:
    shape = {"height": labels.shape[0], "width": labels.shape[1], "count": 1, "dtype": labels.dtype.name}
    place = {"transform": transform, "crs": crs} if transform is not None else {}
    with rasterio.open(path, "w", **({"driver": "GTiff"} | shape | place | profile)) as target:
        target.write(labels, 1)
    return path


def config(mosaic, labels, output, /, **groups) -> EvaluateConfig:
    """Settings of a run in this process."""
    labels = labels if isinstance(labels, dict) else {"urls": str(labels)}
    document = {
        "mosaic": str(mosaic),
        "labels": {"ignore": [UNLABELLED]} | labels,
        "output": str(output),
        "block": {"size_px": 1024},
        "compute": {"executor": "local", "workers": 1},
    }
    return EvaluateConfig.model_validate(document | groups)


def run(mosaic, labels, output, /, **groups):
    return evaluate(config(mosaic, labels, output, **groups))


def confusion_of(classes, labels, num_classes: int = 3):
    """Pixel by pixel in plain numpy: true class by predicted class, the last column for no prediction."""
    counts = np.zeros((num_classes, num_classes + 1), np.int64)
    labelled = labels != UNLABELLED
    predicted = np.minimum(classes[labelled].astype(np.int64), num_classes)
    np.add.at(counts, (labels[labelled].astype(np.int64), predicted), 1)
    return counts


def boundary_of(classes, labels, width_px: int, num_classes: int = 3):
    whole = BoundaryIoU(num_classes, UNLABELLED, width_px=width_px)
    whole.update(classes, labels)
    return whole.iou


def geojson(path: Path, features, *, crs: str | None = "EPSG:32633") -> Path:
    """Pairs of a geometry and its properties as a file."""
    from shapely.geometry import mapping

    document = {
        "type": "FeatureCollection",
        "features": [
            {"type": "Feature", "geometry": mapping(shape), "properties": properties}
            for shape, properties in features
        ],
    }
    if crs:
        document["crs"] = {"type": "name", "properties": {"name": crs}}
    path.write_text(json.dumps(document))
    return path


def without_time(report):
    """What must be equal however the work was cut."""
    cut = {name: value for name, value in report.items() if name not in ("seconds", "output", "error_map")}
    cut["settings"] = {name: value for name, value in report["settings"].items() if name != "block"}
    return {name: value for name, value in cut.items() if name not in ("blocks", "fingerprint")}
