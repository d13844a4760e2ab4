"""Colours of classes: distinct, and such as maps customarily have."""

from pathlib import Path

import numpy as np
import pytest

from deeplab_core import ModelConfig, build_model, save_checkpoint
from deeplab_core.class_colors import class_colors
from deeplab_core.palette import default_colors

LAND = ("water", "wetland", "forest", "grassland", "cropland", "built-up", "road", "bare soil", "snow")


def closest(colors: tuple[tuple[int, int, int], ...]) -> float:
    colors_KC = np.array(colors, dtype=float)
    distance = np.linalg.norm(colors_KC[:, None] - colors_KC[None], axis=-1)
    return float(distance[np.triu_indices(len(colors), k=1)].min())


def test_a_few_classes_are_far_apart_and_off_black_and_white() -> None:
    assert closest(((0, 0, 0), (255, 255, 255), *default_colors(20))) > 25
    assert closest(((0, 0, 0), (255, 255, 255), *class_colors(LAND))) > 25


def test_many_classes_stay_different_and_begin_alike() -> None:
    many = default_colors(255)
    assert len(set(many)) == 255
    assert default_colors(7) == many[:7]
    assert all(isinstance(value, int) and 0 <= value <= 255 for color in many for value in color)
    assert len(set(class_colors([f"forest {index}" for index in range(255)]))) == 255


@pytest.mark.parametrize(
    ("name", "strongest"), [("Open Water", 2), ("rivers", 2), ("Tree cover", 1), ("Built-up area", 0)]
)
def test_a_class_looks_like_its_name(name: str, strongest: int) -> None:
    [color] = class_colors([name])
    assert np.argmax(color) == strongest


def test_words_count_whole_and_only_once() -> None:
    assert class_colors(["nowater"]) == default_colors(1)
    water, rivers = class_colors(["water", "rivers"])
    assert water == class_colors(["water"])[0] != rivers
    assert closest((water, rivers)) >= 40


def test_names_without_a_custom_get_the_defaults() -> None:
    assert class_colors(["a", "b", "c"]) == default_colors(3)


def test_a_checkpoint_gets_them(tmp_path: Path) -> None:
    model = build_model(ModelConfig(backbone="resnet18", classes=("forest", "water")))
    metadata = save_checkpoint(
        model, str(tmp_path), mean=[0.0] * 3, std=[1.0] * 3, bands=["red", "green", "blue"]
    )
    assert metadata.colors == class_colors(["forest", "water"])
