"""The Dockerfile and what goes into the image, read as text: there is no Docker where tests run."""

import re
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from importlib.metadata import requires

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.k8s.rendered import K8S, ROOT


def dockerfile() -> str:
    return (K8S / "Dockerfile").read_text().replace("\\\n", " ")


def instructions(word: str) -> list[str]:
    return re.findall(rf"^{word}\s+(.+)$", dockerfile(), re.MULTILINE)


def test_versions_are_pinned_and_nothing_is_installed_at_start() -> None:
    installs = [line for line in instructions("RUN") if "pip install" in line]
    assert all("--constraint constraints.txt" in line or "--no-deps" in line for line in installs)
    assert len(installs) == 2
    for word in ("CMD", "ENTRYPOINT"):
        assert not any("pip" in line for line in instructions(word))


def requirements() -> list[Requirement]:
    """What the image installs before our code comes: the Dockerfile's own program, run here."""
    [program] = re.findall(r'RUN python -c "(.+?)" > requirements.txt', dockerfile())
    listed = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [Requirement(line) for line in listed.stdout.splitlines()]


def test_everything_that_a_setting_can_ask_for_is_in_the_image() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [lines for name, lines in project["optional-dependencies"].items() if name != "dev"]
    assert set(requirements()) == {Requirement(line) for line in sum(extras, project["dependencies"])}


def test_our_code_is_installed_so_that_it_knows_its_version() -> None:
    """A run asks for it; where it is only copied, every run would end with a fault of ours."""
    [install] = [line for line in instructions("RUN") if "--editable" in line]
    assert "--no-deps --editable /opt/terrazzo" in install
    copied = [line.split()[:-1] for line in instructions("COPY") if line.endswith("/opt/terrazzo/")]
    assert "pyproject.toml" in copied[0]


def test_every_package_in_the_image_is_pinned() -> None:
    """What constraints.txt leaves out, pip would choose anew on the day of the build."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {canonicalize_name(line.partition("==")[0]) for line in lines if "==" in line}
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = [(canonicalize_name(needed.name), frozenset(needed.extras)) for needed in requirements()]
    while waiting:
        name, wanted = waiting.pop()
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        assert name in pinned, f"{name} is not pinned in constraints.txt"
        for text in requires(name) or []:
            needed = Requirement(text)
            markers = [{"extra": extra} for extra in (wanted or {""})]
            if needed.marker is None or any(needed.marker.evaluate(marker) for marker in markers):
                waiting.append((canonicalize_name(needed.name), frozenset(needed.extras)))
    assert len(seen) > 50


def test_python_is_one_that_the_project_supports() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    [image] = re.findall(r"^ARG PYTHON_IMAGE=(\S+)$", dockerfile(), re.MULTILINE)
    major, minor = map(int, re.findall(r"python:(\d+)\.(\d+)", image)[0])
    assert (3, 11) <= (major, minor) < (3, 14), project["requires-python"]
    assert "latest" not in image


def test_it_runs_as_the_user_that_the_pods_name() -> None:
    [user] = instructions("USER")
    assert user == "10001:10001"
    assert dockerfile().index("\nUSER") > dockerfile().rindex("\nRUN"), "nothing is built as that user"
    text = (K8S / "base/nightly-cronjob.yaml").read_text()
    assert "runAsUser: 10001" in text


def test_there_are_a_compiler_a_health_check_and_labels() -> None:
    assert "g++" in dockerfile()
    assert instructions("HEALTHCHECK")
    [labels] = instructions("LABEL")
    for label in ("title", "description", "licenses", "version", "revision"):
        assert f"org.opencontainers.image.{label}=" in labels


def test_caches_lie_where_pods_mount_a_volume() -> None:
    for name in ("XDG_CACHE_HOME", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        assert re.search(rf"{name}=/var/cache/terrazzo", dockerfile()), name
    assert "HOME=/home/terrazzo" in dockerfile()


def test_everything_that_is_copied_exists_and_is_let_in() -> None:
    patterns = [
        line for line in (K8S / "Dockerfile.dockerignore").read_text().splitlines() if line and line[0] != "#"
    ]
    assert patterns[0] == "*", "everything is left out, then what is needed is named"
    let_in = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
    for line in instructions("COPY"):
        if line.startswith("--from="):
            continue
        *sources, _ = line.split()
        for source in sources:
            assert (ROOT / source).exists(), source
            assert any(fnmatch(source, pattern) for pattern in let_in), source
    for package in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]:
        assert package.split(".")[0] in let_in, f"{package} would be missing from the image"
