"""The report of a training run: one page that holds everything it shows and asks nothing of any network."""

from collections.abc import Sequence
from importlib.resources import files

from pipeline.report.chips import chips
from pipeline.report.markup import Child, Markup, element, join
from pipeline.report.page import PAGE_KEY, POLICY
from pipeline.report.pictures import NEUTRAL_COLOR
from pipeline.report.pieces import facts
from pipeline.report.training_curves import curves_section, pace_section
from pipeline.report.training_reference import data_section, model_section, settings_section
from pipeline.report.training_results import classes_section, confused_section, tiles_section
from pipeline.report.training_run import StoredTraining, figure, read_training
from pipeline.report.wording import UNKNOWN, duration, percent, plural, with_unit
from pipeline.storage import Folder

SECTIONS = (
    ("classes", "Classes"),
    ("curves", "Curves"),
    ("confusion", "Confusion"),
    ("tiles", "Tiles"),
    ("pace", "Pace"),
    ("data", "Data"),
    ("model", "Model"),
    ("settings", "Settings"),
)

STATUS = {
    "complete": ("Complete", "Training came to its end, and the best model was validated and written."),
    "interrupted": ("Interrupted", "Training was stopped. Start it again: it goes on where it stood."),
}


def write_training_report(run_folder_url: str) -> None:
    """Write ``report.html`` into a training run's folder, from what the run left there.

    Args:
        run_folder_url: The folder, ``<output>.run``.
    """
    page = render(read_training(run_folder_url))
    Folder.at(run_folder_url).write(PAGE_KEY, page.encode())


def render(run: StoredTraining) -> str:
    """The page as HTML."""
    styles = (
        files("pipeline.report").joinpath(name).read_text("utf-8") for name in ("page.css", "training.css")
    )
    head = join(
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", f"{run.name}: training {_status(run)[0].lower()}"),
        element("style", Markup("".join(styles))),
    )
    body = join(
        element("a", "Skip to the report", href="#main", class_="skip"),
        _header(run),
        element(
            "main",
            classes_section(run),
            curves_section(run),
            confused_section(run),
            tiles_section(run),
            pace_section(run),
            data_section(run),
            model_section(run),
            settings_section(run),
            id="main",
        ),
        element("footer", element("p", str(run.report.get("output", run.output_url)))),
    )
    return f"<!doctype html>\n{element('html', element('head', head), element('body', body), lang='en')}\n"


def _status(run: StoredTraining) -> tuple[str, str]:
    status = str(run.report.get("status", "unknown"))
    return STATUS.get(status, (status.capitalize(), ""))


def _header(run: StoredTraining) -> Markup:
    label, meaning = _status(run)
    status = run.report.get("status")
    links = [element("li", element("a", text, href=f"#{anchor}")) for anchor, text in SECTIONS]
    colors = run.colors or [NEUTRAL_COLOR]
    return element(
        "header",
        chips(str(run.report.get("fingerprint", run.name)), colors, [1.0] * len(colors)),
        element(
            "div",
            element("p", "Terrazzo · training run", class_="kicker"),
            element("h1", run.name),
            element("p", _subtitle(run), class_="subtitle"),
            element(
                "p",
                element("strong", label, class_=f"badge {status if status in STATUS else ''}"),
                " ",
                meaning,
                class_="status",
            ),
            facts(_figures(run), "figures"),
            class_="inner",
        ),
        element("nav", element("ul", links), aria_label="Sections"),
    )


def _subtitle(run: StoredTraining) -> str:
    model = run.report.get("model", {})
    parts = [str(model[key]) for key in ("arch", "backbone") if key in model]
    parts.append(plural(len(run.classes), "class", "classes"))
    splits = run.report.get("splits", {})
    parts.append(plural(sum(splits.values()), "tile"))
    return " · ".join(parts)


def _figures(run: StoredTraining) -> Sequence[tuple[str, Child]]:
    report, result = run.report, run.result

    def share(name: str) -> str:
        value = figure(result.get(name))
        return UNKNOWN if value != value else percent(value)  # noqa: PLR0124 - NaN

    images_per_s = figure(report.get("images_per_s"))
    return [
        ("mean IoU", share("miou")),
        ("mean Dice", share("mean_dice")),
        ("pixels right", share("pixel_accuracy")),
        ("steps", f"{int(figure(report.get('steps', 0))):,}"),
        ("time", duration(figure(report.get("seconds", 0.0)))),
        ("images/s", UNKNOWN if images_per_s != images_per_s else with_unit(images_per_s, "/s")),  # noqa: PLR0124
    ]
