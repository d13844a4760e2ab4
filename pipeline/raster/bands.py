"""Which bands of a raster a model sees: by the user's word, by name, or by count. Pure."""

import logging
from collections.abc import Sequence

from pipeline.errors import ModelError, SettingsError
from pipeline.raster.source import BandInfo

logger = logging.getLogger(__name__)


def choose_bands(
    bands: Sequence[BandInfo],
    *,
    wanted: Sequence[int | str] | None,
    model_bands: Sequence[str] | None,
    in_channels: int,
) -> tuple[int, ...]:
    """Band numbers in the model's order.

    Args:
        bands: The raster's bands.
        wanted: ``source.bands``, if the user gave it.
        model_bands: The model's band names, if its checkpoint has them.
        in_channels: How many bands the model takes.
    """
    if wanted is not None:
        chosen = tuple(_find(bands, band) for band in wanted)
        if len(chosen) != in_channels:
            raise _misfit(bands, model_bands, in_channels, f"source.bands names {len(chosen)}")
        return chosen
    if model_bands and all(band.name for band in bands if not band.is_alpha):
        return _by_name(bands, model_bands, in_channels)
    asked_for = {_fold(name) for name in model_bands or ()}
    data = [band for band in bands if not band.is_alpha or (band.name and _fold(band.name) in asked_for)]
    if len(data) != in_channels and len(bands) == in_channels:
        logger.warning("a band flagged alpha is read as data: only then do the band counts match")
        data = list(bands)
    if len(data) != in_channels:
        raise _misfit(bands, model_bands, in_channels, f"the source has {len(data)}")
    return tuple(band.number for band in data)


def _by_name(bands: Sequence[BandInfo], model_bands: Sequence[str], in_channels: int) -> tuple[int, ...]:
    found = {name: _named(bands, name) for name in model_bands}
    absent = [name for name, band in found.items() if band is None]
    if absent:
        raise _misfit(bands, model_bands, in_channels, f"the source lacks {', '.join(absent)}")
    chosen = [band for name in model_bands if (band := found[name])]
    if any(band.is_alpha for band in chosen):
        logger.warning("a band flagged alpha is read as data: its name is one of the model's bands")
    return tuple(band.number for band in chosen)


def _find(bands: Sequence[BandInfo], wanted: int | str) -> int:
    if isinstance(wanted, str):
        band = _named(bands, wanted)
    else:
        band = next((band for band in bands if band.number == wanted), None)
    if band is None:
        raise SettingsError(f"source.bands: there is no band {wanted!r}; the source has {_listing(bands)}")
    return band.number


def _named(bands: Sequence[BandInfo], name: str) -> BandInfo | None:
    """The band of that name, or the only one that answers to it; a band's own name goes first."""
    own = [band for band in bands if band.name and _fold(band.name) == _fold(name)]
    if own:
        return own[0]
    answering = [band for band in bands if _fold(name) in {_fold(alias) for alias in band.aliases}]
    if len(answering) > 1:
        raise SettingsError(
            f"a band must be named so that one is meant, but {name!r} is the common name of several: "
            f"{_listing(answering)}; name them in source.bands by their own names"
        )
    return answering[0] if answering else None


def _fold(name: str | None) -> str:
    return (name or "").strip().lower()


def _listing(bands: Sequence[BandInfo]) -> str:
    return ", ".join(f"{band.number}{f' ({band.name})' if band.name else ''}" for band in bands)


def _misfit(
    bands: Sequence[BandInfo], model_bands: Sequence[str] | None, in_channels: int, what: str
) -> ModelError:
    names = f" ({', '.join(model_bands)})" if model_bands else ""
    return ModelError(
        f"the model takes {in_channels} bands{names}, but {what}; the source's bands are {_listing(bands)}; "
        "name the bands to use with source.bands"
    )
