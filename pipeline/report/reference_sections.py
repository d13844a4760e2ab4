"""Sections to look things up in: the model, the settings, how to open the result."""

from collections.abc import Mapping, Sequence

from pipeline.report.flat import flat, plain
from pipeline.report.markup import Child, Markup, element
from pipeline.report.open_in import ways_to_open
from pipeline.report.pieces import code, facts, note, section, swatch, table
from pipeline.report.subject import Subject
from pipeline.report.wording import number

SHOWN_APART = ("bands", "mean", "std")


def model_section(subject: Subject) -> Markup:
    """Which model made this, and what it tells apart."""
    model = dict(subject.attributes.get("model", {}))
    names = {
        "arch": "architecture",
        "backbone": "backbone",
        "url": "checkpoint",
        "sha256": "sha256 of weights",
    }
    pairs: list[tuple[str, Child]] = [
        (label, element("code", model[key]) if key in ("url", "sha256") else str(model[key]))
        for key, label in names.items()
        if key in model
    ]
    known = {*names, *SHOWN_APART}
    pairs += [(name, plain(value)) for name, value in flat(model) if name.split(".")[0] not in known]
    classes = sorted(subject.classes, key=lambda one: one.index)
    return section(
        "model",
        "Model",
        facts(pairs),
        _bands(subject, model),
        element("h3", "Classes it tells apart"),
        element(
            "ul",
            [
                element("li", swatch(one.color), element("span", str(one.index), class_="muted"), one.name)
                for one in classes
            ],
            class_="legend",
        ),
    )


def _bands(subject: Subject, model: Mapping[str, object]) -> Markup | None:
    read = subject.run.plan["fingerprint_fields"]["source"]["bands"]
    names, mean, std = (model.get(key) for key in SHOWN_APART)
    if not (isinstance(names, Sequence) and isinstance(mean, Sequence) and isinstance(std, Sequence)):
        listed = ", ".join(str(band) for band in read)
        return note(
            f"It saw the source's bands {listed}, in this order. Their statistics are in the checkpoint."
        )
    rows = [
        (str(name), str(band), number(float(mean[i]), 5), number(float(std[i]), 5))
        for i, (name, band) in enumerate(zip(names, read, strict=True))
    ]
    return table("Bands", ("Band", "Number in the source", "Mean", "Standard deviation"), rows)


def settings_section(subject: Subject) -> Markup:
    """Every setting as it was resolved."""
    plan = subject.run.plan
    rows = [(element("code", name), plain(value)) for name, value in flat(plan["fingerprint_fields"])]
    shared = [
        (element("code", name), plain(value))
        for name, value in [*flat({"choices": plan["choices"]}), *flat({"workers": plan["workers"]})]
    ]
    return section(
        "settings",
        "Settings",
        table("What the result depends on", ("Setting", "Value"), rows, text_columns=2),
        table("How the work was done", ("Setting", "Value"), shared, text_columns=2),
        facts(
            [
                ("fingerprint", element("code", plan["fingerprint"])),
                ("run", element("code", plan["run_id"])),
                ("software", str(subject.attributes.get("software", "not stated"))),
            ]
        ),
        lead="Resolved: what was left to choose is written here as it was chosen.",
    )


def open_section(subject: Subject) -> Markup:
    """Commands that open the mosaic in other software."""
    parts = [
        element("div", element("h3", way.title), element("p", way.hint), code(way.command, way.title))
        for way in ways_to_open(subject)
    ]
    return section("open", "Open the result", parts, lead="One click selects a whole command.")
