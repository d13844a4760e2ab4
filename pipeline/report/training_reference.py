"""Sections to look things up in: the data, the model's card, the settings."""

from collections.abc import Mapping, Sequence

from pipeline.report.flat import flat, plain
from pipeline.report.markup import Child, Markup, element, join
from pipeline.report.pieces import code, facts, note, section, table
from pipeline.report.training_run import StoredTraining
from pipeline.report.wording import number, plural

MOST_BAD_TILES = 50
SHOWN_APART = ("classes", "bands")


def data_section(run: StoredTraining) -> Markup:
    """What was learned from, and what was left out."""
    report = run.report
    splits: Mapping[str, int] = report.get("splits", {})
    bad: Sequence[Mapping[str, str]] = report.get("bad_tiles", [])
    pairs: list[tuple[str, Child]] = [(f"{split} tiles", f"{count:,}") for split, count in splits.items()]
    pairs += [("digest", element("code", str(report.get("data_digest", "not stated"))))]
    trained_on = _lineage(run).get("data")
    if isinstance(trained_on, Mapping) and "tiles" in trained_on:
        pairs.insert(0, ("tile set", element("code", str(trained_on["tiles"]))))
    listed = [
        element("li", element("strong", one["id"], ": "), one["reason"]) for one in bad[:MOST_BAD_TILES]
    ]
    more = len(bad) - len(listed)
    return section(
        "data",
        "Data",
        facts(pairs),
        _bands(run),
        element("h3", "Tiles left out ", element("span", f"{len(bad):,}", class_="count")) if bad else None,
        element("ul", listed, class_="faults") if bad else None,
        note(f"{plural(more, 'tile')} more are in report.json.") if more > 0 else None,
        lead="The digest names the tiles, their bytes and their split: another digest is other data.",
    )


def model_section(run: StoredTraining) -> Markup:
    """The model's card: what it is, where it comes from, what it is good for."""
    config: Mapping[str, object] = run.report.get("model", {})
    pairs: list[tuple[str, Child]] = [
        (name.replace("_", " "), plain(value)) for name, value in config.items() if name not in SHOWN_APART
    ]
    pairs += [
        ("sha256 of weights", element("code", str(run.report.get("sha256", "not written yet")))),
        (
            "fine-tuned from",
            element("code", str(run.report["parent"]))
            if run.report.get("parent")
            else "nothing: trained from the start",
        ),
        (
            "taken from step",
            f"{int(run.report.get('best_step', run.report.get('steps', 0))):,}, the best by validation",
        ),
    ]
    return section(
        "model",
        "Model card",
        facts(pairs),
        element("h3", "What it can be trusted with"),
        element("p", _trust(run)),
        element("h3", "Run it"),
        code(
            f"python jobs/segment_region.py --model {run.report.get('output', run.output_url)} "
            "--source SCENE.tif --output MOSAIC.zarr",
            "Command that segments a scene with this model",
        ),
    )


def settings_section(run: StoredTraining) -> Markup:
    """Every setting as it was given, and what the result depends on."""
    settings = _rows(run.document.get("settings", {}))
    resolved = _rows(
        {key: value for key, value in run.document.get("fingerprint_fields", {}).items() if key != "model"}
    )
    return section(
        "settings",
        "Settings",
        table("Settings of the run", ("Setting", "Value"), settings, text_columns=2),
        table("What the result depends on, resolved", ("Field", "Value"), resolved, text_columns=2),
        facts([("fingerprint", element("code", str(run.document.get("fingerprint", "not stated"))))]),
    )


def _lineage(run: StoredTraining) -> Mapping[str, object]:
    return run.model.get("lineage", {}) if run.model is not None else {}


def _bands(run: StoredTraining) -> Markup | None:
    if run.model is None:
        return None
    rows = [
        (str(name), number(float(mean), 5), number(float(std), 5))
        for name, mean, std in zip(run.model["bands"], run.model["mean"], run.model["std"], strict=True)
    ]
    return table(
        "Bands, with the statistics that the network expects", ("Band", "Mean", "Standard deviation"), rows
    )


def _trust(run: StoredTraining) -> Markup:
    splits: Mapping[str, int] = run.report.get("splits", {})
    validated = splits.get("val", 0) or splits.get("test", 0)
    return join(
        f"It tells {plural(len(run.classes), 'class', 'classes')} apart in imagery like that of its training "
        "tiles: the same bands in the same units, at the same size of pixels. ",
        f"The figures above are of {plural(validated, 'tile')} that it did not learn from. "
        if validated
        else "It was not validated on tiles that it did not learn from: how well it does is not known. ",
        "Where the validation split chose the best state, a split that chose nothing (test) is the more "
        "honest one. Figures of classes that are rare there say little.",
    )


def _rows(values: Mapping[str, object]) -> list[tuple[Child, str]]:
    return [(element("code", name), plain(value)) for name, value in flat(values)]
