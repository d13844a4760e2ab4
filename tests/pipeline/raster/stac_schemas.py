"""What STAC and the extensions that we claim ask of an item, checked without the net.

STAC's own schemas come with pystac. Those of extensions do not: here are their rules for the fields that we
write, and for no others, so that a field that an extension does not know is noticed.
"""

import re
from typing import Any

import jsonschema

from pipeline.raster.export.stac_item import EXTENSIONS

Schema = dict[str, Any]

TEXT: Schema = {"type": "string", "minLength": 1}
WORD: Schema = {"type": "string", "pattern": "^[0-9A-Za-z_-]+$"}
NUMBER: Schema = {"type": "number"}
DATA_TYPE: Schema = {"enum": ["int8", "uint8", "uint16", "float16", "float32"]}


def fields(prefix: str, required: tuple[str, ...] = (), **known: Schema) -> Schema:
    """Fields of one extension, by name without its prefix: those listed, and none besides."""
    named = {f"{prefix}:{name}": schema for name, schema in known.items()}
    return {
        "type": "object",
        "required": [f"{prefix}:{name}" for name in required],
        "properties": named,
        "propertyNames": {"anyOf": [{"enum": list(named)}, {"not": {"pattern": f"^{prefix}:"}}]},
    }


def strict(*required: str, **properties: Schema) -> Schema:
    return {
        "type": "object",
        "required": list(required),
        "properties": properties,
        "additionalProperties": False,
    }


def listed(items: Schema, **limits: Any) -> Schema:
    return {"type": "array", "items": items} | limits


def tensor(names: list[str]) -> Schema:
    shape = listed({"type": "integer", "minimum": -1}, minItems=len(names), maxItems=len(names))
    order = {"const": names}  # "bands" must not stand here, since none are listed as such
    return strict("shape", "dim_order", "data_type", shape=shape, dim_order=order, data_type=DATA_TYPE)


CLASSES = listed(
    strict(
        "value",
        "name",
        value={"type": "integer"},
        name=WORD,
        title={"type": "string"},
        description={"type": "string"},
        color_hint={"type": "string", "pattern": "^[0-9A-Fa-f]{6}$"},
    ),
    minItems=1,
    uniqueItems=True,
)
TASKS = {"const": ["semantic-segmentation"]}
SCALING = strict("type", "mean", "stddev", type={"const": "z-score"}, mean=NUMBER, stddev=NUMBER)
MODEL_INPUT = strict(
    "name",
    "input",
    name=TEXT,
    description=TEXT,
    bands={"const": []},
    input=tensor(["batch", "channel", "height", "width"]),
    value_scaling=listed(SCALING, minItems=1),
)
MODEL_OUTPUT = strict(
    "name",
    "tasks",
    "result",
    name=TEXT,
    tasks=TASKS,
    result=tensor(["batch", "class", "height", "width"]),
    **{"classification:classes": CLASSES},
)

OF_PROPERTIES = {
    "proj": fields(
        "proj",
        code={"type": ["string", "null"], "pattern": "^[A-Z]+:[0-9A-Za-z]+$"},
        wkt2=TEXT,
        bbox=listed(NUMBER, minItems=4, maxItems=4),
        shape=listed({"type": "integer"}, minItems=2, maxItems=2),
        transform=listed(NUMBER, minItems=6, maxItems=6),
    ),
    "mlm": fields(
        "mlm",
        ("name", "architecture", "tasks", "input", "output"),
        name={"type": "string", "pattern": r"^[a-zA-Z][a-zA-Z0-9_.\-\s]+[a-zA-Z0-9]$"},
        architecture=TEXT,
        framework={"const": "PyTorch"},
        tasks=TASKS,
        input=listed(MODEL_INPUT),
        output=listed(MODEL_OUTPUT),
        hyperparameters={
            "type": "object",
            "minProperties": 1,
            "propertyNames": {"pattern": "^[0-9a-zA-Z_.-]+$"},
        },
    ),
}
OF_ASSETS = {"mlm": fields("mlm", artifact_type=TEXT)}
OF_BANDS = {
    "raster": fields("raster", scale=NUMBER, offset=NUMBER, spatial_resolution=NUMBER),
    "classification": fields("classification", classes=CLASSES),
}
PREFIX = re.compile(r"^(proj|raster|classification|mlm):")


def check_extensions(item: dict[str, Any]) -> None:
    """Raises at the first field that breaks an extension's rule, or is used without claiming it."""
    claimed = {name for name, url in EXTENSIONS.items() if url in item["stac_extensions"]}
    assets = list(item["assets"].values())
    bands = [band for asset in assets for band in asset.get("bands", [])]
    of_properties = {name: rules for name, rules in OF_PROPERTIES.items() if name in claimed}
    used = set()
    for rules, objects in (
        (of_properties, [item["properties"]]),
        (OF_ASSETS, assets),
        (OF_BANDS, bands),
    ):
        for each in objects:
            found = {match[1] for name in each if (match := PREFIX.match(name))}
            assert found <= claimed, f"{found - claimed} is used, but not claimed"
            assert found <= set(rules), f"{found - set(rules)} has no fields here"
            used |= found
            for schema in rules.values():
                jsonschema.validate(each, schema, jsonschema.Draft7Validator)
    assert used == claimed, "an extension is claimed and not used"
    if "mlm" in claimed:
        models = [asset for asset in assets if "mlm:model" in asset.get("roles", [])]
        assert models, "mlm asks for an asset that is the model"
        assert all("mlm:artifact_type" in model for model in models)
        assert all("mlm:artifact_type" not in asset for asset in assets if asset not in models)
