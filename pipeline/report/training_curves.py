"""Sections about how a training run went: its curves, and where its time went."""

import math
from collections.abc import Mapping

from pipeline.report.charts import Part, stacked_bar
from pipeline.report.curves import Curve, Scale, line_chart
from pipeline.report.markup import Child, Markup, element, join
from pipeline.report.pieces import facts, note, section, swatch, table
from pipeline.report.training_run import StoredTraining, figure
from pipeline.report.wording import NARROW_SPACE, UNKNOWN, duration, number, percent, with_unit

MOST_CURVES = 10
"""Classes drawn; of more, the ones that the network knows least are."""

MOST_ROWS = 40
"""Validations in the table; of more, so many of the last."""

PHASES = {
    "loading": "waiting for crops: they are read and augmented ahead, beside the steps",
    "forward": "the network and the loss",
    "backward": "gradients",
    "all_reduce": "waiting for the other workers, beyond what the backward pass hides",
    "optimizer": "weights moved, and their moving average",
}


def curves_section(run: StoredTraining) -> Markup:
    """Loss, rate, and the validations between steps."""
    if not run.steps:
        return section("curves", "Curves", element("p", "No step has been taken yet."))
    steps = [figure(record["step"]) for record in run.steps]
    loss = Curve("loss", steps, [figure(record.get("loss")) for record in run.steps], has_band=True)
    rate = Curve("learning rate", steps, [figure(record.get("lr")) for record in run.steps])
    return section(
        "curves",
        "Curves",
        element("h3", "Loss"),
        line_chart([loss], title=_told("Training loss", loss), say=number, y_scale=_from_zero(loss)),
        note("The line is the mean of neighbouring steps, the band behind it their lowest and highest."),
        element("h3", "Learning rate"),
        line_chart(
            [rate], title=_told("Learning rate of the head", rate), say=_small, y_scale=_from_zero(rate)
        ),
        element("h3", "Validation"),
        _validations(run),
    )


def pace_section(run: StoredTraining) -> Markup:
    """Throughput and time shares."""
    told = run.pace or {}
    shares: Mapping[str, float] = run.report.get("time_shares") or told.get("time_shares") or {}
    if not shares:
        return section(
            "pace", "Pace", element("p", "Training has not come to its end: nothing is added up yet.")
        )
    seconds: Mapping[str, float] = told.get("phase_seconds", {})
    rows = [
        (_key(phase), meaning, _seconds(seconds.get(phase)), percent(shares.get(phase, 0.0)))
        for phase, meaning in PHASES.items()
    ]
    stepping, loading = (figure(told.get(name)) for name in ("images_per_s", "loading_images_per_s"))
    pairs: list[tuple[str, Child]] = [
        ("training", with_unit(stepping, "images/s")),
        ("loading alone", with_unit(loading, "images/s")),
        ("validation", _seconds(seconds.get("validation"))),
        ("storing states", _seconds(seconds.get("saving"))),
    ]
    return section(
        "pace",
        "Pace",
        facts(pairs, "facts row"),
        element("h3", "Where the time of steps went"),
        stacked_bar(
            [Part(phase.replace("_", " "), shares.get(phase, 0.0), f"part-{phase}") for phase in PHASES],
            title="Share of every part in the time of steps",
        ),
        table(
            "Parts of a step, added up over rank 0's steps",
            ("Part", "What it is", "Time", "Share"),
            rows,
            text_columns=2,
        ),
        note(_verdict(stepping, loading)),
    )


def _validations(run: StoredTraining) -> Markup:
    found = run.validations
    if not found:
        return element("p", "The network was validated at the end only.")
    steps = [figure(record["step"]) for record in found]
    colors = dict(zip(run.classes, run.colors, strict=True))
    last = found[-1].get("iou", {})
    known = sorted(last, key=lambda name: (math.isnan(figure(last[name])), figure(last[name])))
    drawn = [name for name in last if name in known[:MOST_CURVES]]
    mean = Curve("mean IoU", steps, [figure(record.get("miou")) for record in found], is_strong=True)
    classes = [
        Curve(name, steps, [figure(record.get("iou", {}).get(name)) for record in found], colors.get(name))
        for name in drawn
    ]
    best = max(
        found, key=lambda record: (-1.0 if record.get("miou") is None else record["miou"], record["step"])
    )
    entries = [element("li", element("span", class_="swatch mean", aria_hidden="true"), "mean IoU")]
    entries += [element("li", swatch(colors[name]), name) for name in drawn if name in colors]
    rows = [
        (
            f"{int(record['step']):,}",
            _share(record.get("miou")),
            _share(record.get("pixel_accuracy")),
            *(_share(record.get("iou", {}).get(name)) for name in drawn),
        )
        for record in found[-MOST_ROWS:]
    ]
    more = len(last) - len(drawn)
    return join(
        line_chart(
            [*classes, mean],
            title=_told("Validation IoU", mean),
            say=_whole_percent,
            y_scale=Scale.over([], low=0.0, high=1.0),
        ),
        element("ul", entries, class_="legend", aria_label="Legend"),
        note(f"The {more} classes with the highest IoU are left out.") if more else None,
        note(f"The best mean IoU, {_share(best.get('miou'))}, was reached at step {int(best['step']):,}."),
        table("Validations between steps", ("Step", "Mean IoU", "Pixels right", *drawn), rows),
    )


def _told(what: str, curve: Curve) -> str:
    values = [value for value in curve.ys if math.isfinite(value)]
    if not values:
        return what
    first, last = number(values[0]), number(values[-1])
    return f"{what}: {first} at the first, {last} at the last of {len(values):,} points"


def _from_zero(curve: Curve) -> Scale:
    """Values of one sign are seen from zero."""
    values = [value for value in curve.ys if math.isfinite(value)]
    return Scale.over(values, low=0.0 if min(values, default=0.0) >= 0 else None)


def _small(value: float) -> str:
    return "0" if not value else f"{value:.1e}" if abs(value) < 1e-3 else f"{value:g}"


def _whole_percent(share: float) -> str:
    return f"{100 * share:.0f}{NARROW_SPACE}%"


def _share(value: object) -> str:
    share = figure(value)
    return UNKNOWN if math.isnan(share) else percent(share)


def _seconds(value: object) -> str:
    seconds = figure(value)
    return UNKNOWN if math.isnan(seconds) else duration(seconds)


def _verdict(stepping: float, loading: float) -> str | None:
    if not (math.isfinite(stepping) and math.isfinite(loading) and stepping):
        return None
    if loading >= stepping:
        return f"Crops are loaded {loading / stepping:.1f} times as fast as they are used."
    return "Crops are used faster than they are loaded: raise compute.loaders, or compute.cache_mib."


def _key(phase: str) -> Markup:
    return element(
        "span", element("span", class_=f"swatch part-{phase}", aria_hidden="true"), phase.replace("_", " ")
    )
