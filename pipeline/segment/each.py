"""The same run for every source: one mosaic each, and one word for how all of them went."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from pipeline.config import RunConfig
from pipeline.errors import Refused, SettingsError
from pipeline.raster.scenes.listing import BAND
from pipeline.raster.scenes.patterns import Listings, has_wildcard
from pipeline.storage import normalise_url, redact

logger = logging.getLogger(__name__)


def one_config_each(config: RunConfig) -> list[RunConfig]:
    """A run for every source, each with an output of its own; a pattern stands for all that it names."""
    if not config.source.urls:
        raise SettingsError("--each needs source.urls: scenes of an index or of STAC make one mosaic")
    if "{stem}" not in config.output.url:
        raise SettingsError(f"with --each, --output must hold {{stem}}, got {config.output.url}")
    urls = list(_every_source(config))
    stems = [PurePosixPath(url).stem for url in urls]
    twice = sorted({stem for stem in stems if stems.count(stem) > 1})
    if twice:
        raise SettingsError(f"with --each, sources must have different names, got {', '.join(twice)} twice")
    return [_for_source(config, url, stem) for url, stem in zip(urls, stems, strict=True)]


def _every_source(config: RunConfig) -> Iterator[str]:
    listings = Listings()
    for url in config.source.urls:
        normal = normalise_url(url)
        if config.source.band_files or BAND in url or not has_wildcard(normal):
            yield url
            continue
        found = listings.matching(normal)
        if not found:
            raise SettingsError(f"a pattern of source.urls must name files, but {redact(normal)} names none")
        yield from found


def _for_source(config: RunConfig, url: str, stem: str) -> RunConfig:
    previous = (config.incremental.previous or "").replace("{stem}", stem) or None
    return config.model_copy(
        update={
            "source": config.source.model_copy(update={"urls": (url,)}),
            "output": config.output.model_copy(update={"url": config.output.url.replace("{stem}", stem)}),
            "incremental": config.incremental.model_copy(update={"previous": previous}),
        }
    )


def run_each(configs: Sequence[RunConfig], run: Callable[[RunConfig], Mapping[str, Any]]) -> dict[str, Any]:
    """Run one after the other; what is refused stops no other, and a signal stops all.

    Args:
        configs: The runs.
        run: Gives the report of one.
    """
    reports: list[Mapping[str, Any]] = []
    for config in configs:
        try:
            reports.append(run(config))
        except Refused as error:
            logger.error("%s is refused: %s", redact(config.source.name), error)  # noqa: TRY400 - a sentence
            output = redact(config.output.url)
            reports.append({"status": "refused", "error": str(error), "output": output})
        if reports[-1]["status"] == "interrupted":
            break
    return {"status": _together([report["status"] for report in reports]), "reports": reports}


def _together(statuses: Sequence[str]) -> str:
    """One status for several mosaics: some that are refused leave the whole incomplete."""
    if "interrupted" in statuses:
        return "interrupted"
    if len(set(statuses)) == 1:
        return statuses[0]
    return "incomplete"
