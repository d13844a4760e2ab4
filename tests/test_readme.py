"""Every command block of the README does what it says, in a folder that holds what it names."""

import itertools
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
import yaml
from affine import Affine

from deeplab_core import ModelConfig, build_model, save_checkpoint
from deeplab_core.int8 import computes_in_int8
from pipeline.config import RunConfig
from pipeline.settings import setting_names

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)?(?: (\w+))?\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
CLASSES = ("built-up", "vegetation", "water")
BANDS = ("red", "green", "blue", "nir")


def commands(mark):
    """Lines of the shell blocks with a mark."""
    return [
        line for kind, of, text in BLOCKS if (kind, of) == ("sh", mark) for line in text.splitlines() if line
    ]


def test_every_block_says_what_it_is():
    assert {(kind, mark) for kind, mark, _ in BLOCKS} == {
        ("text", ""), ("sh", ""), ("sh", "cluster"), ("sh", "kubectl"), ("python", ""),
    }  # fmt: skip
    assert len(commands("")) > 10


def test_make_knows_the_two_commands():
    for line in commands(""):
        if line.startswith("make"):
            done = subprocess.run(["make", "-n", line.split()[1]], cwd=ROOT, capture_output=True, check=False)
            assert done.returncode == 0, done.stderr


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_picture_is_one_and_small():
    [picture] = re.findall(r"^!\[.+\]\((.+)\)$", README, re.MULTILINE)
    assert (ROOT / picture).read_bytes().startswith(b"\x89PNG")
    assert (ROOT / picture).stat().st_size < 300_000


SHOWN = re.findall(r"^\| .+ \| `(pytest .+)` \|$", README, re.MULTILINE)


@pytest.mark.parametrize("command", SHOWN)
def test_what_is_claimed_has_tests(command):
    """Files, marks and names that a command of the table asks for are there."""
    words = shlex.split(command)[1:]
    places = [ROOT / word for word in words if word.startswith("tests/")]
    assert places
    assert all(place.exists() for place in places)
    files = [place.rglob("test_*.py") if place.is_dir() else [place] for place in places]
    text = "".join(file.read_text() for some in files for file in some)
    asked = dict(itertools.pairwise(words))
    names = re.findall(r"def (test_\w+)", text)
    assert names
    assert f"pytest.mark.{asked['-m']}" in text if "-m" in asked else True
    for part in asked["-k"].split(" or ") if "-k" in asked else []:
        assert any(part in name for name in names), part


def test_every_claim_names_its_command():
    section = README.split("## What is shown")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")][1:]
    assert len(SHOWN) >= 15
    assert all(re.search(r"`(pytest|make|python) .+` \|$", row) for row in rows)


def test_settings_and_jobs_that_are_named_exist():
    named = set(re.findall(r"`((?:source|region|crop|model|incremental)\.[a-z_.]+)", README))
    known = {name for name, _ in setting_names(RunConfig)}
    groups = {name.rpartition(".")[0] for name in known}
    assert len(named) > 12
    assert named - known - groups - {"model.json", "model.safetensors"} == set()
    jobs = set(re.findall(r"`(?:jobs/)?([a-z_]+\.py)`", README.split("## How it works")[0]))
    assert len(jobs) > 4
    assert {job for job in jobs if not (ROOT / "jobs" / job).is_file()} == set()


def test_manifests_that_are_applied_exist():
    lines = [shlex.split(line) for line in commands("kubectl")]
    folders = [line[line.index("-k") + 1] for line in lines if "-k" in line]
    assert folders
    for folder in folders:
        assert (ROOT / folder / "kustomization.yaml").is_file()
    text = "".join(path.read_text() for path in (ROOT / "k8s" / "base").glob("*.yaml"))
    for line in lines:
        for name in (word.partition("/")[2] for word in line if word.startswith("--from=cronjob/")):
            assert f"name: {name}\n" in text


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the README's commands find: a scene, a model, labelled tiles, settings."""
    path = tmp_path_factory.mktemp("readme")
    for name in ("jobs", "pipeline", "deeplab_core"):
        (path / name).symlink_to(ROOT / name)
    rng = np.random.default_rng(0)
    labels = np.kron(rng.integers(1, 4, (9, 11)), np.ones((80, 80))).astype(np.uint8)
    image = np.array([[200, 180, 170, 120], [60, 90, 50, 210], [30, 50, 90, 10]])[labels - 1].transpose(
        2, 0, 1
    )
    image = (image + rng.normal(0, 12, image.shape)).clip(1, 255).astype(np.uint8)
    _raster(path / "scene.tif", image, (0, 0))
    for number, (row, col) in enumerate(((0, 0), (0, 320), (240, 0), (240, 320), (480, 160), (400, 560))):
        part = np.s_[..., row : row + 240, col : col + 240]
        _raster(path / "tiles" / "images" / f"t{number}.tif", image[part], (row, col))
        _raster(path / "tiles" / "labels" / f"t{number}.tif", labels[part][None], (row, col))
    torch.manual_seed(0)
    model = build_model(ModelConfig(backbone="resnet18", in_channels=4, classes=CLASSES))
    save_checkpoint(model, path / "model", mean=[100.0] * 4, std=[60.0] * 4, bands=list(BANDS))
    train = {
        "model": {"backbone": "resnet18", "image_pooling": "none"},
        "train": {"max_steps": 4, "batch": 4, "crop_px": 129},
        "validation": {"crop": {"size_px": 257, "stride_px": 192}},
        "compute": {"executor": "local"},
    }
    (path / "train.yaml").write_text(yaml.safe_dump(train))
    (path / "retrain.yaml").write_text(yaml.safe_dump(train))
    return path


def _raster(path, values, at):
    path.parent.mkdir(parents=True, exist_ok=True)
    row, col = at
    profile = {
        "driver": "GTiff", "count": len(values), "height": values.shape[1], "width": values.shape[2],
        "dtype": values.dtype, "crs": "EPSG:32633",
        "transform": Affine(10, 0, 500_000 + 10 * col, 0, -10, 5_400_000 - 10 * row),
    }  # fmt: skip
    with rasterio.open(path, "w", **profile) as target:
        target.write(values)
        if len(values) == len(BANDS):
            target.descriptions = BANDS


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_command_works(folder):
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for line in commands(""):
        words = shlex.split(line)
        if words[0] == "make":
            continue
        assert words[0] == "python", line
        if "inference.precision=int8" in words and not computes_in_int8(torch.device("cpu")):
            continue  # this processor does not multiply bytes
        done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    outputs = (
        "scene.zarr",
        "scene_classes.tif",
        "water.geojson",
        "trained/model.json",
        "evaluation/report.html",
        "worth_labelling.geojson",
        "registry/champion.json",
        "champion.zarr",
    )
    for name in outputs:
        assert (folder / name).exists(), name


@pytest.mark.slow
def test_the_python_works(folder):
    blocks = [text for kind, _, text in BLOCKS if kind == "python"]
    assert len(blocks) == 2
    if not (folder / "scene.zarr").exists():
        arguments = [
            "jobs/segment_region.py",
            "--source",
            "scene.tif",
            "--model",
            "model",
            "--output",
            "scene.zarr",
        ]
        subprocess.run([sys.executable, *arguments, "--executor", "local"], cwd=folder, check=True)
    for block in blocks:
        done = subprocess.run(
            [sys.executable, "-c", block], cwd=folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


def test_the_submitted_command_is_a_job_with_a_config():
    """That a real head runs such a submission is shown in tests/pipeline/segment/test_ray.py."""
    [line] = commands("cluster")
    words = shlex.split(line)
    assert words[:4] == ["ray", "job", "submit", "--working-dir"]
    script = words[words.index("--") + 2]
    assert (ROOT / script).is_file()
    help_text = subprocess.run(
        [sys.executable, ROOT / script, "--help"], capture_output=True, text=True, check=True
    ).stdout
    for flag in (word for word in words[words.index("--") + 3 :] if word.startswith("--")):
        assert flag in help_text
