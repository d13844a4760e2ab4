"""Strict schemas of kinds that no package ships: only the fields that we use, so that others are noticed."""

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string", "minLength": 1}
TEXTS: Schema = {"type": "object", "additionalProperties": TEXT}
QUANTITY: Schema = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(m|[kKMGT]i?)?$"}
DURATION: Schema = {"type": "string", "pattern": r"^([0-9]+(ms|[smhdwy]))+$"}


def strict(required: list[str], **properties: Schema) -> Schema:
    return {"type": "object", "required": required, "properties": properties, "additionalProperties": False}


def listed(items: Schema) -> Schema:
    return {"type": "array", "minItems": 1, "items": items}


def kind(api_version: str, spec: Schema) -> Schema:
    metadata = strict(["name"], name=TEXT, namespace=TEXT, labels=TEXTS, annotations=TEXTS)
    return strict(
        ["apiVersion", "kind", "metadata", "spec"],
        apiVersion={"const": api_version},
        kind=TEXT,
        metadata=metadata,
        spec=spec,
    )


SELECTOR = strict(["matchLabels"], matchLabels=TEXTS)
RELABELING = strict(
    ["sourceLabels", "targetLabel"],
    action={"enum": ["replace", "keep", "drop"]},
    sourceLabels=listed(TEXT),
    targetLabel=TEXT,
)
RULE = strict(
    ["alert", "expr", "labels", "annotations"],
    alert=TEXT,
    expr=TEXT,
    labels=TEXTS,
    annotations=TEXTS,
    **{"for": DURATION},
)
QUOTA = strict(["name", "nominalQuota"], name=TEXT, nominalQuota=QUANTITY)
FLAVOR = strict(["name", "resources"], name=TEXT, resources=listed(QUOTA))

SMALL_SCHEMAS: dict[str, Schema] = {
    "PodMonitor": kind(
        "monitoring.coreos.com/v1",
        strict(
            ["selector", "podMetricsEndpoints"],
            selector=SELECTOR,
            podMetricsEndpoints=listed(
                strict(["port"], port=TEXT, interval=DURATION, relabelings=listed(RELABELING))
            ),
        ),
    ),
    "PrometheusRule": kind(
        "monitoring.coreos.com/v1",
        strict(["groups"], groups=listed(strict(["name", "rules"], name=TEXT, rules=listed(RULE)))),
    ),
    "ResourceFlavor": kind("kueue.x-k8s.io/v1beta2", strict(["nodeLabels"], nodeLabels=TEXTS)),
    "ClusterQueue": kind(
        "kueue.x-k8s.io/v1beta2",
        strict(
            ["namespaceSelector", "resourceGroups"],
            namespaceSelector=SELECTOR,
            resourceGroups=listed(
                strict(["coveredResources", "flavors"], coveredResources=listed(TEXT), flavors=listed(FLAVOR))
            ),
        ),
    ),
    "LocalQueue": kind("kueue.x-k8s.io/v1beta2", strict(["clusterQueue"], clusterQueue=TEXT)),
}
