"""One scene, three models and a run that nothing happened to, for all whole runs."""

from pathlib import Path

import pytest

from pipeline.config import RunConfig
from pipeline.segment.run import segment
from tests.pipeline.segment.scene import settings, write_light_model, write_model, write_scene


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "checkpoint")


@pytest.fixture(scope="session")
def light_model(tmp_path_factory) -> Path:
    return write_light_model(tmp_path_factory.mktemp("light") / "checkpoint")


@pytest.fixture(scope="session")
def other_model(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("other") / "checkpoint", seed=1)


@pytest.fixture(scope="session")
def scene(tmp_path_factory) -> Path:
    """2 × 2 blocks of 1024 px, the last ones ragged."""
    return write_scene(tmp_path_factory.mktemp("scene") / "scene.tif", 1301, 1187)


@pytest.fixture(scope="session")
def undisturbed(scene, model, tmp_path_factory) -> Path:
    """A run over that scene, in this process, that nothing happened to."""
    output = tmp_path_factory.mktemp("undisturbed") / "out.zarr"
    report = segment(RunConfig.model_validate(settings(scene, model, output)))
    assert report["status"] == "complete"
    return output
