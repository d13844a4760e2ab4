"""Every manifest, rendered, against the strict schema of its kind."""

import json
from copy import deepcopy
from typing import Any

import jsonschema
import pytest

from tests.k8s.rendered import KUSTOMIZATIONS, ROOT, Document, all_documents, one, render
from tests.k8s.small_schemas import SMALL_SCHEMAS

CRDS = ROOT.parent / "shared" / "crds"
KUBERNETES = "1.33"
"""The version whose schemas are asked; what we use exists since 1.31."""


def faults(document: Document) -> list[str]:
    """What the API server would refuse."""
    kind = document["kind"]
    if document["apiVersion"].startswith("ray.io/"):
        return _json_faults(_ray_schema(kind), document)
    if kind in SMALL_SCHEMAS:
        return _json_faults(SMALL_SCHEMAS[kind], document)
    kubernetes_validate = pytest.importorskip(
        "kubernetes_validate", reason="NOT CHECKED: core kinds, for want of the package kubernetes-validate"
    )
    try:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [str(error.message)]
    return []


def _ray_schema(kind: str) -> Any:
    if not CRDS.is_dir():
        pytest.skip(f"NOT CHECKED: {kind}, for want of KubeRay's schemas in {CRDS}")
    return json.loads((CRDS / f"{kind.lower()}.v1.schema.json").read_text())


def _json_faults(schema: Any, document: Document) -> list[str]:
    validator = jsonschema.Draft202012Validator(schema)
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(document)]


@pytest.mark.parametrize("kustomization", KUSTOMIZATIONS)
@pytest.mark.parametrize("group", ["ray", "core", "others"])
def test_every_manifest_is_valid(kustomization: str, group: str) -> None:
    documents = [d for d in render(kustomization) if _group(d) == group]
    found = {f"{d['kind']} {d['metadata']['name']}": faults(d) for d in documents}
    assert not {name: said for name, said in found.items() if said}


def _group(document: Document) -> str:
    if document["apiVersion"].startswith("ray.io/"):
        return "ray"
    return "others" if document["kind"] in SMALL_SCHEMAS else "core"


MISSPELT = [
    ("overlays/gpu-spot", "RayCluster", "terrazzo", ("spec", "headGroupSpec"), "rayStartParam"),
    ("overlays/gpu-spot", "RayCronJob", "terrazzo-nightly-template", ("spec", "jobTemplate"), "backofLimit"),
    (
        "jobs/segment-region/gpu-spot",
        "RayJob",
        "terrazzo-segment-region",
        ("spec",),
        "shutdownAfterJobFinish",
    ),
    ("overlays/gpu-spot", "CronJob", "terrazzo-nightly", ("spec",), "concurencyPolicy"),
    (
        "overlays/gpu-spot",
        "CronJob",
        "terrazzo-nightly",
        ("spec", "jobTemplate", "spec", "template", "spec"),
        "volume",
    ),
    ("overlays/gpu-spot", "PodMonitor", "terrazzo-ray", ("spec",), "podMetricEndpoints"),
    ("overlays/gpu-spot", "PrometheusRule", "terrazzo", ("spec", "groups", 0, "rules", 0), "annotation"),
    ("overlays/kueue", "ClusterQueue", "terrazzo", ("spec",), "resourceGroup"),
]


@pytest.mark.parametrize(("kustomization", "kind", "name", "path", "field"), MISSPELT)
def test_a_misspelt_field_is_noticed(
    kustomization: str, kind: str, name: str, path: tuple[str | int, ...], field: str
) -> None:
    document = deepcopy(one(kustomization, kind, name))
    assert not faults(document)
    node: Any = document
    for step in path:
        node = node[step]
    node[field] = {}
    assert any(field in said for said in faults(document)), faults(document)


def test_nothing_is_applied_twice_in_one_installation() -> None:
    for kustomization in KUSTOMIZATIONS:
        names = [(d["kind"], d["metadata"]["name"]) for d in render(kustomization)]
        assert len(names) == len(set(names)), kustomization


def test_everything_has_a_home() -> None:
    """What is namespaced lies in the namespace that holds the policies."""
    cluster_wide = {"Namespace", "ResourceFlavor", "ClusterQueue"}
    for where, document in all_documents():
        if document["kind"] not in cluster_wide:
            assert document["metadata"]["namespace"] == "terrazzo", where


def test_sources_of_copies_are_not_applied() -> None:
    for kustomization in KUSTOMIZATIONS:
        kinds_here = {document["kind"] for document in render(kustomization)}
        assert "PodTemplate" not in kinds_here
        if kustomization.startswith("overlays/"):
            assert "RayJob" not in kinds_here, "installing starts no run"
        if kustomization.startswith("jobs/"):
            assert kinds_here == {"ConfigMap", "RayJob"}, (
                "a one-shot job brings its run and nothing that stays"
            )
