"""Alerts and dashboard ask for metrics that somebody exports, and the runbook answers every alert."""

import ast
import json
import re

import yaml

from tests.k8s.rendered import K8S, ROOT

FROM_RAY = {"ray_node_gpus_utilization", "ray_node_cpu_count", "ray_node_mem_used", "ray_node_mem_total"}
"""Of every Ray node, seen on the metrics port of Ray 2.60 (the GPUs' in its source)."""

FROM_KUBERNETES = {
    "kuberay_job_deployment_status",
    "kube_job_status_failed",
    "kube_job_status_succeeded",
    "kube_job_status_active",
    "kube_cronjob_status_last_successful_time",
    "kube_cronjob_created",
}


def exported_by_us() -> set[str]:
    """Names on Ray's metrics port, from the definitions: Ray puts its prefix before and the kind behind."""
    suffixes = {"Counter": ["_total"], "Gauge": [""], "Histogram": ["_sum", "_count", "_bucket"]}
    found = set()
    source = (ROOT / "pipeline/segment/ray_executor.py").read_text()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in suffixes:
            name = ast.literal_eval(node.args[0])
            found |= {f"ray_{name}{suffix}" for suffix in suffixes[node.func.id]}
    return found


def dashboard_queries() -> list[str]:
    board = json.loads((K8S / "monitoring/dashboard.json").read_text())
    return [target["expr"] for panel in board["panels"] for target in panel["targets"]]


def alerts() -> dict[str, str]:
    spec = yaml.safe_load((K8S / "monitoring/alerts.yaml").read_text())["spec"]
    return {rule["alert"]: rule["expr"] for group in spec["groups"] for rule in group["rules"]}


def metrics_in(query: str) -> set[str]:
    return set(re.findall(r"\b(?:ray|kube|kuberay)_[a-z_]+(?=\{)", query))


def test_queries_ask_for_metrics_that_exist() -> None:
    ours = exported_by_us()
    assert len(ours) >= 7
    for query in [*dashboard_queries(), *alerts().values()]:
        asked = metrics_in(query)
        assert asked, f"no metric in {query}"
        assert asked <= ours | FROM_RAY | FROM_KUBERNETES, query


def test_states_that_are_asked_for_are_states_that_are_counted() -> None:
    """A misspelt label value matches nothing, and an alert that matches nothing never fires."""
    source = "".join(
        (ROOT / f"pipeline/segment/{name}.py").read_text() for name in ("ray_executor", "worker", "tally")
    )
    queries = "".join([*dashboard_queries(), *alerts().values()])
    asked = {state for group in re.findall(r'[^_]state=~?"([^"]+)"', queries) for state in group.split("|")}
    assert asked == {"done", "empty", "failed"}
    for state in asked:
        assert f'"{state}"' in source


def test_the_dashboard_shows_what_the_engineer_on_call_asks_first() -> None:
    board = json.loads((K8S / "monitoring/dashboard.json").read_text())
    assert {"Speed", "Blocks", "Time left", "GPU idle", "Blocks put aside"} <= {
        p["title"] for p in board["panels"]
    }
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    corners = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in board["panels"]]
    assert len(set(corners)) == len(corners)


def test_the_runbook_answers_every_alert() -> None:
    headings = set(re.findall(r"^### (\w+)$", (K8S / "README.md").read_text(), re.MULTILINE))
    assert set(alerts()) == headings & {name for name in headings if name.startswith("Terrazzo")}
