"""The report of a training run."""

from collections.abc import Sequence
from importlib.resources import files

from pipeline.report.chips import chips
from pipeline.report.frame import PAGE_KEY, label_of, make_header, make_page, status_line
from pipeline.report.markup import Child, Markup
from pipeline.report.pictures import NEUTRAL_COLOR
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
    label, _ = label_of(_status(run), STATUS)
    return make_page(
        f"{run.name}: training {label.lower()}",
        header=_header(run),
        sections=[
            classes_section(run),
            curves_section(run),
            confused_section(run),
            tiles_section(run),
            pace_section(run),
            data_section(run),
            model_section(run),
            settings_section(run),
        ],
        footer=[str(run.report.get("output", run.output_url))],
        styles=[files("pipeline.report").joinpath("training.css").read_text("utf-8")],
    )


def _status(run: StoredTraining) -> str:
    return str(run.report.get("status", "unknown"))


def _header(run: StoredTraining) -> Markup:
    colors = run.colors or [NEUTRAL_COLOR]
    return make_header(
        "training run",
        run.name,
        _subtitle(run),
        status_line(_status(run), STATUS),
        figures=_figures(run),
        sections=SECTIONS,
        band=chips(str(run.report.get("fingerprint", run.name)), colors, [1.0] * len(colors)),
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
