"""So many blocks changed that workers compare them: the same counts and the same layer as one process."""

from pathlib import Path

import pytest

from pipeline.segment.nightly.publish import LOCAL_TASKS
from pipeline.storage import Folder
from tests.pipeline.segment.nights import GRID, PX, Product, computed

BLOCKS = LOCAL_TASKS + 2
HEIGHT = BLOCKS * 1024

pytestmark = pytest.mark.slow


def layer_objects(url: str) -> dict[str, bytes]:
    folder = Folder.at(url)
    keys = sorted(found.key for found in folder.listing("changes/"))
    return {key: folder.read(key) for key in keys if not key.endswith("zarr.json")}


def test_workers_compare_what_one_process_would(model, other_model, tmp_path, monkeypatch):
    """All blocks of a tall grid are stale, since the model changed; few hold any data."""
    left, _, right, top = GRID["bounds"]
    product = Product(str(tmp_path), str(model))
    product.put("far.tif", row=HEIGHT - 100, seed=9)
    grid = {**GRID, "bounds": [left, top - HEIGHT * PX, right, top]}
    groups = {
        "source": {"urls": [f"{tmp_path}/scenes/*.tif"], "grid": grid},
        "output": {"logits": "none", "overviews": False},
    }
    product.night(**groups)
    changed = groups | {"model": {"url": str(other_model)}, "incremental": {"change_layer": True}}
    report = product.night(**changed, compute={"executor": "ray", "workers": 2})
    assert computed(report) == BLOCKS
    assert report["incremental"]["recomputed"] == BLOCKS
    by_workers = report["incremental"]["changes"]
    assert by_workers["pixels_compared"] == HEIGHT * 120
    assert by_workers["pixels_changed"] > 0
    assert by_workers["not_compared"] == {}
    layer = layer_objects(product.latest()["url"])
    assert layer, "a layer without a changed pixel shows nothing"

    # The same night again beside it, compared in this process, from the same first version.
    monkeypatch.setattr("pipeline.segment.nightly.publish.LOCAL_TASKS", BLOCKS)
    first = report["incremental"]["previous"]
    alone = dict(changed) | {"output": changed["output"] | {"url": f"{tmp_path}/alone"}}
    alone["incremental"] = {"change_layer": True, "previous": f"{product.folder.url}/versions/{first}"}
    report = product.night(**alone)
    assert computed(report) == BLOCKS
    assert report["incremental"]["changes"] == by_workers
    (version,) = (path for path in Path(tmp_path, "alone", "versions").iterdir() if path.suffix != ".run")
    assert layer_objects(str(version)) == layer
