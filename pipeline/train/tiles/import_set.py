"""A published data set, as it is unpacked, to a tile set."""

from collections.abc import Callable, Mapping

from pipeline.storage import Folder
from pipeline.train.tiles.index_pairs import Indexed, index_pairs
from pipeline.train.tiles.manifest import Manifest, read_manifest, write_manifest
from pipeline.train.tiles.public_sets import ade20k, cityscapes, coco_stuff, landcoverai, loveda, voc2012
from pipeline.train.tiles.public_sets.layout import PublicSet
from pipeline.train.tiles.settings import TilesSettings

PUBLIC_SETS: Mapping[str, Callable[[], PublicSet]] = {
    "voc2012": voc2012.make,
    "cityscapes": cityscapes.make,
    "ade20k": ade20k.make,
    "coco-stuff": coco_stuff.make,
    "loveda": loveda.make,
    "landcoverai": landcoverai.make,
}


def import_set(name: str, settings: TilesSettings) -> tuple[Indexed, Manifest | None]:
    """Index a published data set and write its manifest; images stay where they lie.

    Args:
        name: One of ``PUBLIC_SETS``.
        settings: Where it is unpacked, where the manifest goes, and how it is split where it has no splits.
    """
    public = PUBLIC_SETS[name]()
    folder = Folder.at(settings.manifest_folder)
    known = read_manifest(folder)
    pairs, unpaired = public.pairs(Folder.at(settings.url))
    indexed = index_pairs(folder.url, pairs, unpaired, public.meaning, settings, known, is_official=True)
    write_manifest(folder, Manifest(indexed.tiles, {"import": name}, indexed.block_m))
    return indexed, known
