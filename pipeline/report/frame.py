"""The frame of every report: one page that holds everything it shows and asks nothing of any network."""

from collections.abc import Mapping, Sequence
from importlib.resources import files

from pipeline.report.markup import Child, Markup, element, join
from pipeline.report.pieces import facts

PAGE_KEY = "report.html"

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""Nothing is fetched and nothing is run, whatever the page may hold."""

Meanings = Mapping[str, tuple[str, str]]
"""How a status is called on the page, and what it means."""


def make_page(
    title: str,
    *,
    header: Markup,
    sections: Sequence[Child],
    footer: Sequence[Child],
    styles: Sequence[str] = (),
) -> str:
    """A page as HTML.

    Args:
        title: What the browser calls it.
        header: What ``make_header`` made.
        sections: Its parts.
        footer: What stands last.
        styles: CSS of its own, beside what all pages share.
    """
    shared = files("pipeline.report").joinpath("page.css").read_text("utf-8")
    head = join(
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", Markup("".join((shared, *styles)))),
    )
    body = join(
        element("a", "Skip to the report", href="#main", class_="skip"),
        header,
        element("main", *sections, id="main"),
        element("footer", element("p", *footer)),
    )
    return f"<!doctype html>\n{element('html', element('head', head), element('body', body), lang='en')}\n"


def make_header(
    kicker: str,
    heading: str,
    subtitle: str,
    *more: Child,
    figures: Sequence[tuple[str, Child]],
    sections: Sequence[tuple[str, str]],
    band: Child = None,
) -> Markup:
    """What a page begins with.

    Args:
        kicker: What kind of page it is.
        heading: What it is about.
        subtitle: That in a line.
        more: What stands between that and the figures.
        figures: The most important ones, by name.
        sections: Anchors of the page's parts, and how they are called.
        band: An ornament above.
    """
    links = [element("li", element("a", text, href=f"#{anchor}")) for anchor, text in sections]
    return element(
        "header",
        band,
        element(
            "div",
            element("p", f"Terrazzo · {kicker}", class_="kicker"),
            element("h1", heading),
            element("p", subtitle, class_="subtitle"),
            *more,
            facts(figures, "figures"),
            class_="inner",
        ),
        element("nav", element("ul", links), aria_label="Sections"),
    )


def label_of(status: str, meanings: Meanings) -> tuple[str, str]:
    """How a status is called and what it means; one that nobody foresaw is called by its name."""
    return meanings.get(status, (status.capitalize(), ""))


def status_line(status: str, meanings: Meanings) -> Markup:
    """A status as a badge, and what it means."""
    label, meaning = label_of(status, meanings)
    badge = element("strong", label, class_=f"badge {status if status in meanings else ''}")
    return element("p", badge, " ", meaning, class_="status")
