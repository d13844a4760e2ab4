"""The runbook, as whoever is called at night uses it: every command exists and fits what is installed."""

import functools
import importlib
import itertools
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from copy import deepcopy
from pathlib import PurePosixPath
from typing import Any

import pytest
import yaml

from tests.k8s.rendered import K8S, KUSTOMIZATIONS, ROOT, all_documents, one
from tests.k8s.test_schemas import faults

TEXT = (K8S / "README.md").read_text()
BLOCKS = [
    re.sub(r"^ +", "", block, flags=re.MULTILINE) if indent else block
    for indent, block in re.findall(r"^( *)```\n(.*?)^ *```$", TEXT, re.MULTILINE | re.DOTALL)
]
HEREDOC = re.compile(r"<<'YAML'\n(.*?)\n *YAML\n", re.DOTALL)
INLINE = re.findall(r"`((?:kubectl|python|docker) [^`]+)`", TEXT)
FROM_OPERATOR = {"secret": {"terrazzo"}, "service": {"terrazzo-head-svc"}}
"""KubeRay 1.7 makes these of the RayCluster terrazzo: the token's Secret bears its name."""


def lines() -> list[str]:
    """Every command, whether in a block or in the text, without its comment."""
    blocks = "\n".join(HEREDOC.sub("\n", block) for block in BLOCKS)
    found = [*blocks.replace("\\\n", " ").splitlines(), *(" ".join(code.split()) for code in INLINE)]
    substituted = (code for line in found for code in re.findall(r"\$\((kubectl [^)]+)\)", line))
    inner = [code.partition(" | ")[0] for code in substituted]
    return [line for line in [*found, *inner] if line.strip() and "=$(" not in line]


def commands(program: str) -> list[list[str]]:
    """The words of every command of a program, also of those behind ``--``."""
    found = []
    for line in lines():
        words = [word for word in shlex.split(line, comments=True) if word != "&"]
        if words[:1] == [program]:
            found.append(words)
        elif program in words and "--" in words[: words.index(program)]:
            found.append(words[words.index(program) :])
    return found


def test_there_is_something_to_check() -> None:
    assert len(BLOCKS) > 10
    assert len(commands("kubectl")) > 25
    assert len(commands("python")) >= 9


def test_every_job_is_called_with_flags_and_settings_that_it_takes() -> None:
    for _, script, *arguments in commands("python"):
        path = PurePosixPath(script.removeprefix("/opt/terrazzo/"))
        assert (ROOT / path).is_file(), script
        job: Any = importlib.import_module(".".join(path.with_suffix("").parts))
        options = job.parse([str(ROOT / word) if word.startswith("k8s/") else word for word in arguments])
        if (getattr(options, "config", None) or "").startswith("/"):
            job.load(options)


@functools.cache
def flags_of(command: tuple[str, ...]) -> set[str]:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("NOT CHECKED: the runbook's commands, for want of kubectl on the PATH")
    words = [kubectl, *command, "--help"]
    text = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"(?<=[\s,])--?[a-z][-a-z]*(?=[=,\s])", text))


def verb(words: list[str]) -> tuple[str, ...]:
    """kubectl's subcommand: of most verbs one word, of create two or three."""
    plain = [word for word in words if not word.startswith("-")]
    if plain[0] != "create":
        return (plain[0],)
    return tuple(plain[:3]) if plain[1] == "secret" else tuple(plain[:2])


def test_kubectl_knows_every_flag() -> None:
    known = {"-n", "-f", "-k", "-l", "-o", "-p", "-c"}
    for _, *everything in commands("kubectl"):
        words = list(itertools.takewhile("--".__ne__, everything))
        if words[0] == "-n":
            assert words[1] == "terrazzo"
            del words[:2]
        allowed = flags_of(verb(words))
        for word in words:
            if word.startswith("-") and word != "-":
                flag = word.partition("=")[0]
                assert flag in allowed, f"kubectl {' '.join(words)}: {flag}"
                assert flag.startswith("--") or flag in known


def test_what_is_applied_is_something_to_apply() -> None:
    applied = [words[words.index("-k") + 1] for words in commands("kubectl") if "-k" in words[:-1]]
    assert applied
    for folder in applied:
        assert folder.removeprefix("k8s/") in KUSTOMIZATIONS, folder


def named_things() -> Iterator[tuple[str, str]]:
    kinds = "cronjob|rayjob|raycluster|secret|service|secret generic"
    for line in lines():
        for kind, name in re.findall(rf"\b({kinds})[ /](terrazzo[-a-z]*)", line):
            yield kind.split()[0], name


def test_what_commands_name_is_what_is_installed() -> None:
    installed = {(d["kind"].lower(), d["metadata"]["name"]) for _, d in all_documents()}
    created = {("secret", "terrazzo-bucket")}
    found = set(named_things())
    assert {kind for kind, _ in found} >= {"cronjob", "rayjob", "raycluster", "secret", "service"}
    for kind, name in found - created:
        assert (kind, name) in installed or name in FROM_OPERATOR.get(kind, set()), f"{kind} {name}"


def test_patches_are_valid() -> None:
    patches = [
        (words[words.index("cronjob") + 1], json.loads(words[words.index("-p") + 1]))
        for words in commands("kubectl")
        if "patch" in words
    ]
    assert patches
    for name, patch in patches:
        cronjob = deepcopy(one("overlays/gpu-spot", "CronJob", name))
        assert set(patch) == {"spec"}
        cronjob["spec"] |= patch["spec"]
        assert not faults(cronjob)


def test_manifests_in_it_are_valid_and_select_pods_that_exist() -> None:
    dedented = re.sub(r"^ {3}", "", TEXT, flags=re.MULTILINE)  # it stands in a numbered step
    found = [yaml.safe_load(text) for text in HEREDOC.findall(dedented)]
    assert found
    components = {"head", "worker", "submitter", "nightly"}
    for document in found:
        assert not faults(document)
        assert document["metadata"]["namespace"] == "terrazzo"
        [expression] = document["spec"]["podSelector"]["matchExpressions"]
        assert set(expression["values"]) <= components


def test_wait_and_logs_ask_for_conditions_and_containers_that_exist() -> None:
    waits = [word for words in commands("kubectl") for word in words if word.startswith("--for=condition=")]
    assert set(waits) == {"--for=condition=HeadPodReady"}, "KubeRay's words for a RayCluster's conditions"
    head = one("overlays/gpu-spot", "RayCluster", "terrazzo")["spec"]["headGroupSpec"]["template"]["spec"]
    containers = {words[words.index("-c") + 1] for words in commands("kubectl") if "-c" in words}
    assert containers == {container["name"] for container in head["containers"]}


def test_links_lead_to_headings() -> None:
    headings = {
        re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-")
        for title in re.findall(r"^#+ (.+)$", TEXT, re.MULTILINE)
    }
    targets = re.findall(r"\]\(#([^)]+)\)", TEXT)
    assert targets
    assert set(targets) <= headings
