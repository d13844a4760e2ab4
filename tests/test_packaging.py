"""What is installed is all that there is: no package and no file that the code reads is left behind."""

import tomllib
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
ROOMS = ("deeplab_core", "jobs", "pipeline")
NOT_READ = (".py", ".pyc", ".png", ".yaml", ".md")
"""Code, the README's picture, and what stands in jobs/configs for people."""


def test_every_package_is_listed():
    found = {path.parent.relative_to(ROOT) for room in ROOMS for path in (ROOT / room).rglob("__init__.py")}
    assert sorted(".".join(path.parts) for path in found) == sorted(SETTINGS["packages"])


def test_every_folder_of_code_is_a_package():
    folders = {path.parent for room in ROOMS for path in (ROOT / room).rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []


def test_every_file_that_is_read_comes_along():
    data = SETTINGS["package-data"]
    for path in (path for room in ROOMS for path in (ROOT / room).rglob("*")):
        if path.is_file() and path.suffix not in NOT_READ:
            package = ".".join(path.parent.relative_to(ROOT).parts)
            assert any(fnmatch(path.name, pattern) for pattern in data.get(package, [])), path
