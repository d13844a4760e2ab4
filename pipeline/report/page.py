"""The report of a run."""

from collections.abc import Sequence

from pipeline.raster.mosaic import Mosaic
from pipeline.raster.window import Window
from pipeline.report.change_section import change_section
from pipeline.report.chips import chips
from pipeline.report.frame import (
    PAGE_KEY,
    label_of,
    make_header,
    make_page,
    status_line,
)
from pipeline.report.ground import Ground
from pipeline.report.markup import Child, Markup, element
from pipeline.report.pictures import Picture, picture_of_classes, picture_of_confidence
from pipeline.report.reference_sections import model_section, open_section, settings_section
from pipeline.report.result_sections import classes_section, confidence_section, pictures_section
from pipeline.report.run_folder import StoredRun, read_run, run_folder
from pipeline.report.run_sections import faults_section, pace_section, plan_section
from pipeline.report.source_picture import NoPicture, picture_of_source
from pipeline.report.subject import Subject
from pipeline.report.wording import duration, moment, number, plural, with_unit
from pipeline.report.zarr_picture import picture_of_zarr
from pipeline.storage import normalise_url

SECTIONS = (
    ("pictures", "Mosaic"),
    ("confidence", "Confidence"),
    ("classes", "Classes"),
    ("changes", "Changes"),
    ("pace", "Pace"),
    ("plan", "Plan"),
    ("faults", "Faults"),
    ("model", "Model"),
    ("settings", "Settings"),
    ("open", "Open"),
)

STATUS = {
    "complete": ("Complete", "Every block is finished, and the audit found the mosaic whole."),
    "incomplete": ("Incomplete", "The run came to its end, but parts of the mosaic are missing or damaged."),
    "interrupted": ("Interrupted", "The run was stopped. Start it again: it goes on where it stood."),
}


def write_report(output_url: str, *, source_url: str | None = None) -> None:
    """Write ``report.html`` into a run's folder, from what the run left behind.

    Args:
        output_url: Where the mosaic lies.
        source_url: Where its source can be read, for a picture of it. By default the address that the plan
            holds, from which signatures and passwords were taken.
    """
    run = read_run(output_url)
    page = render(look_at(run, source_url=source_url))
    run_folder(output_url).write(PAGE_KEY, page.encode())


def look_at(run: StoredRun, *, source_url: str | None) -> Subject:
    """Open the mosaic of a run and make its pictures."""
    mosaic = Mosaic.open(run.output_url)
    return Subject(
        run=run,
        mosaic=mosaic,
        ground=Ground.under(mosaic.grid, mosaic.layout.attributes),
        classes_picture=picture_of_classes(mosaic, has_overviews=run.has_overviews),
        confidence_picture=picture_of_confidence(mosaic, has_overviews=run.has_overviews),
        source_picture=_source_picture(run, mosaic, source_url or run.plan["source"]["url"]),
    )


def render(subject: Subject) -> str:
    """The page as HTML."""
    label, _ = label_of(subject.run.report["status"], STATUS)
    return make_page(
        f"{subject.name}: {label.lower()}",
        header=_header(subject),
        sections=[
            pictures_section(subject),
            confidence_section(subject),
            classes_section(subject),
            change_section(subject),
            pace_section(subject),
            plan_section(subject),
            faults_section(subject),
            model_section(subject),
            settings_section(subject),
            open_section(subject),
        ],
        footer=[str(subject.attributes.get("software", "")), " · ", subject.run.report["output"]],
    )


def _source_picture(run: StoredRun, mosaic: Mosaic, url: str) -> Picture | NoPicture:
    row, col = mosaic.layout.attributes["source_origin"]
    window = Window(row, col, mosaic.grid.height, mosaic.grid.width)
    read = run.plan["fingerprint_fields"]["source"]
    if "scenes" in read:
        return NoPicture("the source is many scenes, laid on a grid while they were read")
    if "t" in read:
        return picture_of_zarr(normalise_url(url), window, read)
    source = run.plan["source"]
    level_shape = (source["height"], source["width"]) if "level" in read else None
    return picture_of_source(url, window, bands=read["bands"], nodata=read["nodata"], level_shape=level_shape)


def _header(subject: Subject) -> Markup:
    colors = [one.color for one in subject.classes]
    return make_header(
        "segmentation run",
        subject.name,
        _subtitle(subject),
        status_line(subject.run.report["status"], STATUS),
        _problems(subject),
        figures=_figures(subject),
        sections=[
            (anchor, text)
            for anchor, text in SECTIONS
            if anchor != "changes" or "incremental" in subject.run.report
        ],
        band=chips(subject.run.plan["run_id"], colors, [one.share for one in subject.classes]),
    )


def _subtitle(subject: Subject) -> str:
    grid, crs = subject.mosaic.grid, subject.ground.crs
    place = crs.name if crs else "no coordinate system"
    if subject.ground.slide_px_m is not None:
        place = f"{subject.ground.slide_px_m[1] * 1e6:.4g} µm a pixel"
    parts = [f"{grid.height:,} × {grid.width:,} px", place]
    if subject.mosaic.layout.stack is not None:
        num_t, num_z = subject.mosaic.layout.stack.shape
        parts.insert(1, f"{num_t:,} t × {num_z:,} z")
    ends = [block.ended for block in subject.run.blocks if block.started]
    if ends:
        parts.append(moment(max(ends)))
    return " · ".join(parts)


def _problems(subject: Subject) -> Markup | None:
    report = subject.run.report
    counts = [
        (len(report["failures"]), "block given up", "blocks given up"),
        (len(report["audit"]["faults"]), "fault found by the audit", "faults found by the audit"),
    ]
    told = [plural(count, one, many) for count, one, many in counts if count]
    if not told:
        return None
    return element("p", element("a", "; ".join(told), href="#faults"), class_="problems")


def _figures(subject: Subject) -> Sequence[tuple[str, Child]]:
    report, unit = subject.run.report, subject.area_unit
    area = sum(one.area_m2 or 0.0 for one in subject.classes)
    covered = (
        with_unit(area / unit.square_metres, unit.sign)
        if unit
        else with_unit(subject.num_known_pixels / 1e6, "Mpx")
    )
    seam = report.get("seam")
    return [
        ("classified", covered),
        ("blocks finished", f"{subject.run.num_finished:,} of {report['blocks']['total']:,}"),
        ("time", duration(report["seconds"])),
        ("throughput", with_unit(report["mpx_per_s"], "Mpx/s")),
        ("seam (1 is none)", number(seam) if seam is not None else "–"),
    ]
