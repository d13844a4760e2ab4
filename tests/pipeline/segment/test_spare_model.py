"""A damaged model is refused while nothing is written, wherever it lies; one that is whole is read once."""

import json
import shutil
from pathlib import Path

import pytest
import requests

from pipeline.config import RunConfig
from pipeline.errors import ModelError
from pipeline.registry import Registry
from pipeline.segment.run import segment
from pipeline.storage import Folder
from tests.pipeline.raster.file_server import served
from tests.pipeline.segment.scene import array_objects, settings, write_scene

WEIGHTS = "model.safetensors"


def run(source, model, output, *, overwrite=False, **groups):
    config = RunConfig.model_validate(settings(source, model, output, **groups))
    return segment(config, overwrite=overwrite)


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    return write_scene(tmp_path_factory.mktemp("small") / "scene.tif", 120, 130, holes=False)


@pytest.fixture
def damaged(light_model, tmp_path) -> Path:
    """One bit is another."""
    path = shutil.copytree(light_model, tmp_path / "damaged")
    weights = (path / WEIGHTS).read_bytes()
    (path / WEIGHTS).write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    return path


def copy_to(folder: Folder, checkpoint: Path) -> None:
    for file in checkpoint.iterdir():
        folder.write(file.name, file.read_bytes())


def model_url(where: str, checkpoint: Path, base: str) -> str:
    if where == "registry":
        registry = Registry.at(f"{base}/registry")
        copy_to(Folder.at(registry.model_url("v1")), checkpoint)
        sha256 = json.loads((checkpoint / "model.json").read_text())["sha256"]
        registry.promote("v1", sha256, None)
        return registry.folder.url
    if where == "bucket":
        copy_to(Folder.at(f"{base}/model"), checkpoint)
        return f"{base}/model"
    return str(checkpoint)


@pytest.mark.parametrize("where", ["local", "bucket", "registry"])
def test_a_damaged_model_is_refused_before_anything_is_written(where, damaged, small, s3_bucket):
    output = Folder.at(f"{s3_bucket.url}/out.zarr")
    url = model_url(where, damaged, s3_bucket.url)
    with pytest.raises(ModelError, match=r"must have the sha256 that model\.json states"):
        run(small, url, output.url)
    assert output.is_empty()
    assert Folder.at(f"{output.url}.run").is_empty()


def test_a_champion_that_is_another_model_than_was_promoted_is_refused(model, other_model, small, tmp_path):
    url = model_url("registry", model, str(tmp_path))
    copy_to(Folder.at(Registry.at(url).model_url("v1")), other_model)
    with pytest.raises(ModelError, match=r"must be the model that was promoted, .* but version v1 holds"):
        run(small, url, tmp_path / "out.zarr")
    assert not (tmp_path / "out.zarr").exists()


def test_weights_of_another_graph_are_refused_before_anything_is_written(light_model, small, tmp_path):
    """Whole as files, and yet nothing that any worker could load."""
    path = shutil.copytree(light_model, tmp_path / "model")
    document = json.loads((path / "model.json").read_text())
    document["config"]["backbone"] = "timm/mobilenetv3_small_075"
    (path / "model.json").write_text(json.dumps(document))
    with pytest.raises(ModelError, match="must be exactly those of its config's graph"):
        run(small, path, tmp_path / "out.zarr")
    assert not (tmp_path / "out.zarr").exists()
    assert not (tmp_path / "out.zarr.run").exists()


def test_starting_over_with_a_damaged_model_deletes_nothing(damaged, light_model, small, tmp_path):
    run(small, light_model, tmp_path / "out.zarr")
    before = array_objects(tmp_path / "out.zarr"), array_objects(tmp_path / "out.zarr.run")
    with pytest.raises(ModelError, match="sha256"):
        run(small, damaged, tmp_path / "out.zarr", overwrite=True)
    assert (array_objects(tmp_path / "out.zarr"), array_objects(tmp_path / "out.zarr.run")) == before


def test_a_night_with_a_damaged_model_begins_no_version(damaged, small, tmp_path):
    previous = {"previous": str(tmp_path / "product/latest.json")}
    with pytest.raises(ModelError, match="sha256"):
        run(small, damaged, tmp_path / "product", incremental=previous)
    assert not (tmp_path / "product").exists()


def test_weights_are_read_once_where_driver_and_worker_are_one_process(light_model, small, tmp_path):
    with served(light_model) as address:
        report = run(small, address, tmp_path / "out.zarr")
        log = requests.get(f"{address}/requests", timeout=10).json()
    assert report["status"] == "complete"
    assert [path for method, path, _ in log if method == "GET"].count(f"/{WEIGHTS}") == 1
    run(small, light_model, tmp_path / "local.zarr")
    assert array_objects(tmp_path / "out.zarr") == array_objects(tmp_path / "local.zarr")
