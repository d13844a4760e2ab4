"""The manifests as kustomize makes them, and ways through them."""

import functools
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
K8S = ROOT / "k8s"
KUSTOMIZATIONS = tuple(
    sorted(
        str(path.parent.relative_to(K8S))
        for pattern in ("overlays/*/kustomization.yaml", "jobs/*/*/kustomization.yaml")
        for path in K8S.glob(pattern)
        if path.parent.name != "rayjob"
    )
)
"""What people apply. The others are parts of these."""

Document = dict[str, Any]


@functools.cache
def render(kustomization: str) -> tuple[Document, ...]:
    """Every document of a kustomization."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("NOT CHECKED: the manifests, for want of kubectl on the PATH")
    command = [kubectl, "kustomize", str(K8S / kustomization)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return tuple(yaml.load_all(ended.stdout, Loader=yaml.CSafeLoader))


def all_documents() -> Iterator[tuple[str, Document]]:
    """Where it is, and every document that is applied."""
    for kustomization in KUSTOMIZATIONS:
        for document in render(kustomization):
            yield f"{kustomization}: {document['kind']} {document['metadata']['name']}", document


def one(kustomization: str, kind: str, name: str) -> Document:
    [document] = [d for d in render(kustomization) if (d["kind"], d["metadata"]["name"]) == (kind, name)]
    return document


@dataclass(frozen=True)
class Place:
    """A RayCluster's spec, and the job's around it if there is one."""

    where: str
    cluster: Document
    job: Document | None


def ray_places() -> Iterator[Place]:
    """Every cluster that the manifests describe, whether standing or a job's."""
    for where, document in all_documents():
        spec = document.get("spec", {})
        match document["kind"]:
            case "RayCluster":
                yield Place(where, spec, None)
            case "RayJob":
                yield Place(where, spec["rayClusterSpec"], spec)
            case "RayCronJob":
                yield Place(where, spec["jobTemplate"]["rayClusterSpec"], spec["jobTemplate"])


def pod_specs() -> Iterator[tuple[str, Document]]:
    """Every pod that the manifests describe."""
    for where, document in all_documents():
        yield from _pods_below(where, document)


def _pods_below(where: str, node: Any) -> Iterator[tuple[str, Document]]:
    if isinstance(node, list):
        for index, item in enumerate(node):
            yield from _pods_below(f"{where}[{index}]", item)
    elif isinstance(node, dict):
        if "containers" in node:
            yield where, node
        for key, value in node.items():
            yield from _pods_below(f"{where}.{key}", value)


def containers() -> Iterator[tuple[str, Document]]:
    """Every container, and the autoscaler's settings, which become one."""
    for where, pod in pod_specs():
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            yield f"{where} {container['name']}", container
    for place in ray_places():
        if "autoscalerOptions" in place.cluster:
            yield f"{place.where} autoscaler", place.cluster["autoscalerOptions"]
