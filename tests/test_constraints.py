"""constraints.txt pins all that the project asks for, on every Python that it supports."""

import itertools
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LINES = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
PYTHONS = ("3.11", "3.12", "3.13")


def pins(python):
    """Versions by name, for one Python; a name that is pinned twice there fails."""
    found = {}
    for pin in map(Requirement, LINES):
        if pin.marker is None or pin.marker.evaluate({"python_version": python}):
            name = canonicalize_name(pin.name)
            assert name not in found, f"{name} is pinned twice on Python {python}"
            [only] = pin.specifier
            assert only.operator == "=="
            found[name] = only.version
    return found


def wanted():
    """What the project and its extras ask for."""
    extras = PROJECT["optional-dependencies"].values()
    lines = [*PROJECT["dependencies"], *itertools.chain.from_iterable(extras)]
    return [one for one in map(Requirement, lines) if one.name != PROJECT["name"]]


def test_these_are_the_pythons_that_are_supported():
    supported = SpecifierSet(PROJECT["requires-python"])
    assert [f"3.{minor}" for minor in range(8, 20) if f"3.{minor}" in supported] == list(PYTHONS)


@pytest.mark.parametrize("python", PYTHONS)
def test_every_dependency_has_a_pin_that_fits(python):
    versions = pins(python)
    for one in wanted():
        assert one.specifier.contains(versions[canonicalize_name(one.name)]), (python, str(one))


def test_models_and_clusters_meet_one_version_whatever_the_python():
    for name in ("torch", "torchvision", "ray", "safetensors"):
        assert len({pins(python)[name] for python in PYTHONS}) == 1, name


def test_no_place_is_named_to_take_them_from():
    pin = re.compile(r"[a-z0-9-]+==[a-z0-9.]+( ; python_version [<>=]+ '3\.\d+'( or .*)?)?")
    assert [line for line in LINES if not pin.fullmatch(line)] == []
