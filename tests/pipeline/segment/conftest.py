"""One scene and two models for all whole runs."""

from pathlib import Path

import pytest

from tests.pipeline.segment.scene import write_model, write_scene


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "checkpoint")


@pytest.fixture(scope="session")
def other_model(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("other") / "checkpoint", seed=1)


@pytest.fixture(scope="session")
def scene(tmp_path_factory) -> Path:
    """2 × 2 blocks of 1024 px, the last ones ragged."""
    return write_scene(tmp_path_factory.mktemp("scene") / "scene.tif", 1301, 1187)
