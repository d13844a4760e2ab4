"""Write constraints.txt: what an installation with all extras gets today, on every Python that is supported.

python3.11 .ci/constraints.py python3.11 python3.12 python3.13

Every interpreter resolves for itself, in an environment of its own; only metadata is downloaded. A version
that all agree on is one line; where they part, each line has a marker.
"""

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ALIKE = ("torch", "torchvision", "ray")
"""A model, and a driver and its cluster, shall not meet different versions of these because of Python's."""

HEAD = """\
# What an installation with all extras gets on Python {pythons}; a marker stands where versions part.
# Written by `python3.11 .ci/constraints.py {commands}`: again after every change
# of dependencies.
"""


def requirements(project: Mapping[str, object]) -> Iterator[str]:
    """Every requirement of the project, those of all its extras among them."""
    extras = project["optional-dependencies"]
    assert isinstance(extras, dict)  # noqa: S101 - a table, by the standard
    own = re.compile(rf"{project['name']}\[")
    for listed in (project["dependencies"], *extras.values()):
        yield from (one for one in listed if not own.match(one))


def resolve(python: str, wanted: Sequence[str]) -> dict[str, str]:
    """Version of every distribution that pip would install with this interpreter."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        subprocess.run([python, "-m", "venv", f"{folder}/venv"], check=True)  # noqa: S603
        pip = [f"{folder}/venv/bin/python", "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, "--upgrade", "pip"], check=True)  # noqa: S603 - older ones download all wheels
        dry = ["--dry-run", "--ignore-installed", "--report", str(report)]
        subprocess.run([*pip, *dry, *wanted], check=True)  # noqa: S603
        found = json.loads(report.read_text())["install"]
    return {
        re.sub(r"[-_.]+", "-", one["metadata"]["name"]).lower(): one["metadata"]["version"].partition("+")[0]
        for one in found
    }


def merge(resolved: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    """A line for every version that any Python gets, in the order of names.

    Args:
        resolved: Versions by name, for every Python such as ``3.11``, the oldest first.
    """
    pythons = list(resolved)
    for name in sorted({name for versions in resolved.values() for name in versions}):
        by_version: dict[str, list[str]] = {}
        for python in pythons:
            if name in resolved[python]:
                by_version.setdefault(resolved[python][name], []).append(python)
        if len(by_version) == 1:
            yield f"{name}=={next(iter(by_version))}"
        elif name in ALIKE:
            raise SystemExit(
                f"{name} must be one version on all Pythons, got {by_version}; pin it in pyproject"
            )
        else:
            yield from (
                f"{name}=={version} ; {_marker(those, pythons)}" for version, those in by_version.items()
            )


def _marker(those: Sequence[str], pythons: Sequence[str]) -> str:
    """A marker that holds on some of the Pythons, which lie side by side or are named one by one."""
    first, last = pythons.index(those[0]), pythons.index(those[-1])
    if last - first + 1 == len(those) and first == 0:
        return f"python_version < '{pythons[last + 1]}'"
    if last - first + 1 == len(those) and last == len(pythons) - 1:
        return f"python_version >= '{those[0]}'"
    return " or ".join(f"python_version == '{python}'" for python in those)


def main(commands: Sequence[str]) -> int:
    """Ask every interpreter, write the file."""
    if not commands:
        raise SystemExit("name the interpreters to resolve with: python3.11 python3.12 python3.13")
    wanted = list(requirements(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]))
    resolved: dict[tuple[int, int], dict[str, str]] = {}
    for python in commands:
        ask = "import json, sys; print(json.dumps(sys.version_info[:2]))"
        done = subprocess.run([python, "-c", ask], check=True, capture_output=True, text=True)  # noqa: S603
        major, minor = json.loads(done.stdout)
        resolved[major, minor] = resolve(python, wanted)
    named = {f"{major}.{minor}": resolved[major, minor] for major, minor in sorted(resolved)}
    head = HEAD.format(pythons=", ".join(named), commands=" ".join(f"python{name}" for name in named))
    (ROOT / "constraints.txt").write_text(head + "\n".join(merge(named)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
