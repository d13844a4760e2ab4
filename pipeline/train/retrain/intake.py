"""Which tiles a challenger learns from: those the champion has not seen, with a replay of those it has.

Pure: what each version learnt from stands in its record, as the content of every tile by its id.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from pipeline.errors import MismatchError
from pipeline.train.tiles.tile_set import Tile, TileSet

Contents = Mapping[str, str]
"""sha256 of tiles, by id."""


@dataclass(frozen=True)
class Intake:
    """Tiles by what becomes of them.

    Attributes:
        new: Training tiles that the champion has not seen, or not as they are now.
        old: Those that it has.
        rejected: Those that came with a challenger that was turned down; they are left out.
        validation: The frozen validation split.
        waiting: Validation tiles that came after it was frozen; nobody learns from them or is judged by them.
    """

    new: tuple[Tile, ...]
    old: tuple[Tile, ...]
    rejected: tuple[Tile, ...]
    validation: tuple[Tile, ...]
    waiting: tuple[Tile, ...]

    def tile_set(self, tiles: TileSet) -> TileSet:
        """The set that the challenger is trained with and judged by."""
        chosen = sorted((*self.new, *self.old, *self.validation), key=lambda tile: tile.id)
        return replace(tiles, tiles=tuple(chosen))

    def weights(self, new_share: float) -> dict[str, float]:
        """How much more often tiles are taken, so that new ones make up their share of the samples."""
        if not self.old or not self.new:
            return {}
        new_pixels, old_pixels = (sum(sum(t.class_pixels) for t in part) for part in (self.new, self.old))
        if not new_pixels or not old_pixels:
            return {}
        weight_new, weight_old = new_share / new_pixels, (1 - new_share) / old_pixels
        largest = max(weight_new, weight_old)
        return {tile.id: weight_new / largest for tile in self.new} | {
            tile.id: weight_old / largest for tile in self.old
        }


def sort_tiles(tiles: TileSet, *, seen: Contents, frozen: Contents | None, rejected: Contents) -> Intake:
    """Sort a tile set.

    Args:
        tiles: All that there is now.
        seen: What the champion has learnt from.
        frozen: The validation split as it was frozen; None to freeze it now.
        rejected: What came with challengers that were turned down.
    """
    training = [tile for tile in tiles.of("train") if not _is_in(tile, rejected)]
    validation = tiles.of("val")
    kept = validation if frozen is None else tuple(tile for tile in validation if _is_in(tile, frozen))
    if frozen is not None:
        _check_complete(kept, frozen)
    return Intake(
        new=tuple(tile for tile in training if not _is_in(tile, seen)),
        old=tuple(tile for tile in training if _is_in(tile, seen)),
        rejected=tuple(tile for tile in tiles.of("train") if _is_in(tile, rejected)),
        validation=kept,
        waiting=tuple(tile for tile in validation if tile not in kept),
    )


def contents(tiles: Iterable[Tile]) -> dict[str, str]:
    """What tiles are, as records keep it."""
    return {tile.id: tile.sha256 for tile in tiles}


def _is_in(tile: Tile, known: Contents) -> bool:
    return known.get(tile.id) == tile.sha256


def _check_complete(kept: Iterable[Tile], frozen: Contents) -> None:
    """Champion and challenger are judged by the same tiles, or not at all."""
    lost = sorted(set(frozen) - {tile.id for tile in kept})
    if lost:
        raise MismatchError(
            f"the frozen validation split must stay as it was, but {len(lost)} of its {len(frozen)} tiles "
            f"are gone, changed or in another split: {', '.join(lost[:5])}{' …' if len(lost) > 5 else ''}; "
            "put them back, or begin a new registry"
        )
