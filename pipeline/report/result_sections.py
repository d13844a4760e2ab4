"""Sections about what came out: pictures, confidence, areas of classes."""

import math

from pipeline.report.charts import Bar, bar_chart
from pipeline.report.ground import round_length
from pipeline.report.markup import Child, Markup, element, join
from pipeline.report.pictures import CONFIDENCE_RAMP, Picture
from pipeline.report.pieces import note, section, swatch, table
from pipeline.report.source_picture import NoPicture
from pipeline.report.subject import ClassShare, Subject
from pipeline.report.wording import number, percent, plural

MOST_IN_LEGEND = 24
MOST_BARS = 20
SCALE_BAR_SHARE = 0.3
"""The longest a scale bar gets, of the picture's width."""

SMALL_PX = 600
"""Pictures below are enlarged, and then in clear squares."""


def pictures_section(subject: Subject) -> Markup:
    """The mosaic beside its source, with legend and scale bar."""
    listed = ", ".join(
        f"{one.name} {percent(one.share)}" for one in subject.classes[:MOST_IN_LEGEND] if one.pixels
    )
    alt = f"Map of classes of {subject.name}: {listed or 'no pixel has a class yet'}"
    mosaic = _figure(subject.classes_picture, f"Classes{_of_plane(subject)}", alt, _scale_bar(subject))
    if isinstance(subject.source_picture, NoPicture):
        source = element(
            "figure",
            element("div", element("p", subject.source_picture.reason), class_="empty"),
            element("figcaption", element("p", element("strong", "Source"))),
        )
    else:
        alt = f"The imagery that {subject.name} was made from, stretched for display"
        source = _figure(subject.source_picture, "Source", alt, None)
    return section("pictures", "The mosaic", element("div", mosaic, source, class_="pair"), _legend(subject))


def confidence_section(subject: Subject) -> Markup:
    """How sure the model was, as a picture."""
    picture = subject.confidence_picture
    ramp = element(
        "div",
        element("span", style=f"background:linear-gradient(90deg,{','.join(CONFIDENCE_RAMP)})"),
        element("p", element("span", "0 %"), element("span", "50 %"), element("span", "100 %")),
        class_="ramp",
        role="img",
        aria_label="Colours of confidence, from dark for 0 percent to light for 100 percent",
    )
    mean = None
    if picture.mean is not None:
        mean = element(
            "p", element("strong", percent(picture.mean), class_="large"), " on average over this picture"
        )
    words = element(
        "div",
        element(
            "p",
            "The probability of the class that won each pixel. Dark lines follow the borders of classes; "
            "dark areas are where the model met something it does not know well, and where labels help most.",
        ),
        mean,
        ramp,
        class_="beside",
    )
    alt = f"Map of confidence of {subject.name}, lighter where the model is surer"
    figure = _figure(picture, f"Confidence{_of_plane(subject)}", alt, None)
    return section("confidence", "Confidence", element("div", figure, words, class_="pair"))


def classes_section(subject: Subject) -> Markup:
    """Areas of classes as a chart and as a table."""
    present = [one for one in subject.classes if one.pixels]
    absent = [one.name for one in subject.classes if not one.pixels]
    if not present:
        return section("classes", "Class areas", element("p", "No pixel has a class yet."))
    unit = subject.area_unit
    bars = [
        Bar(one.name, one.share, " · ".join(_shown(subject, one)), one.color) for one in present[:MOST_BARS]
    ]
    headers = ["Class", *([unit.sign] if unit else []), "Pixels", "Share"]
    more = len(present) - len(bars)
    return section(
        "classes",
        "Class areas",
        bar_chart(bars, title="Area of every class"),
        note(f"The chart shows the {MOST_BARS} largest; {more} more are in the table.") if more > 0 else None,
        table("Area of every class", headers, [_row(subject, one) for one in present]),
        note(subject.ground.note),
        note(f"Not found: {', '.join(absent)}.") if absent else None,
    )


def _shown(subject: Subject, one: ClassShare) -> list[str]:
    unit = subject.area_unit
    if unit is None or one.area_m2 is None:
        return [f"{one.pixels:,} px", percent(one.share)]
    return [f"{number(one.area_m2 / unit.square_metres)} {unit.sign}", percent(one.share)]


def _row(subject: Subject, one: ClassShare) -> list[Child]:
    unit = subject.area_unit
    name = join(swatch(one.color), one.name)
    area = [number(one.area_m2 / unit.square_metres, 4)] if unit and one.area_m2 is not None else []
    return [name, *area, f"{one.pixels:,}", percent(one.share)]


def _legend(subject: Subject) -> Markup:
    present = [one for one in subject.classes if one.pixels]
    entries = [
        element("li", swatch(one.color), one.name, element("span", percent(one.share), class_="muted"))
        for one in present[:MOST_IN_LEGEND]
    ]
    if len(present) > MOST_IN_LEGEND:
        entries.append(element("li", f"and {plural(len(present) - MOST_IN_LEGEND, 'class', 'classes')} more"))
    unknown = subject.mosaic.num_pixels - subject.num_known_pixels
    if unknown:
        share = percent(unknown / subject.mosaic.num_pixels)
        hatched = element("span", class_="swatch void", aria_hidden="true")
        entries.append(
            element("li", hatched, "no data", element("span", f"{share} of the mosaic", class_="muted"))
        )
    return element("ul", entries, class_="legend", aria_label="Legend")


def _of_plane(subject: Subject) -> str:
    """Which plane of a stack is shown."""
    if subject.mosaic.layout.stack is None:
        return ""
    return f" of plane t {subject.mosaic.middle['t']}, z {subject.mosaic.middle['z']}"


def _figure(picture: Picture, caption: str, alt: str, below: Child) -> Markup:
    is_small = max(picture.width, picture.height) < SMALL_PX
    image = element(
        "img",
        src=picture.data_uri,
        alt=alt,
        width=picture.width,
        height=picture.height,
        class_="pixelated" if is_small else None,
    )
    aspect = f"--aspect:{picture.width / picture.height:.5f}"
    words = element("p", element("strong", caption), " ", _resolution(picture))
    return element("figure", image, element("figcaption", words, below), class_="frame", style=aspect)


def _resolution(picture: Picture) -> str:
    if picture.step == 1:
        return "at full resolution"
    if picture.is_sampled:
        return f"one pixel shown of every {picture.step:,} × {picture.step:,}"
    return f"{picture.step} × {picture.step} pixels as one"


def _scale_bar(subject: Subject) -> Markup:
    width_m, width_px = subject.ground.width_m(), subject.mosaic.grid.width
    if width_m:
        length, text = round_length(width_m * SCALE_BAR_SHARE)
        share = length / width_m
    else:
        length = 10 ** math.floor(math.log10(max(1.0, width_px * SCALE_BAR_SHARE)))
        length *= max(step for step in (1, 2, 5) if step * length <= max(1.0, width_px * SCALE_BAR_SHARE))
        text, share = f"{length:,} px", length / width_px
    bar = element("span", style=f"width:{100 * share:.3f}%", aria_hidden="true")
    return element("div", bar, element("span", text, class_="scale-text"), class_="scale-bar")
