"""The settings of a run are contracts: their names, values, defaults, and what is refused."""

import pytest

from pipeline.config import RunConfig
from pipeline.errors import SettingsError
from pipeline.settings import default_text, describe_settings, load_settings, setting_names

CONTRACT = """
source.urls source.bands source.nodata source.scale source.offset source.order source.composite
source.resampling source.index source.band_files source.stac.url source.stac.file source.stac.collections
source.stac.bbox source.stac.datetime source.stac.query source.stac.cloud_cover_max source.stac.assets
source.stac.limit source.grid.crs source.grid.resolution source.grid.bounds source.grid.origin
source.grid.like source.quality_mask.preset source.quality_mask.file source.quality_mask.band
source.quality_mask.values source.quality_mask.bits
source.level source.resolution source.um_per_px source.t source.z source.tissue source.tissue_margin_px
region.polygon region.bbox region.window model.url crop.size_px crop.stride_px
blend.window inference.scales inference.flips inference.fuse inference.precision inference.compile
inference.batch block.size_px output.url output.logits output.overviews compute.executor compute.workers
incremental.previous incremental.keep incremental.abandoned_after_h incremental.change_layer
compute.threads_per_worker compute.gpus_per_worker compute.memory_gib
"""

REQUIRED = ["source.urls=a.tif", "model.url=m", "output.url=o"]


def load(*assignments):
    return load_settings(RunConfig, config_url=None, assignments=[*REQUIRED, *assignments], flags={})


def value_of(config, name):
    for part in name.split("."):
        config = getattr(config, part)
    return config


def test_the_names_are_those_of_the_contract():
    assert sorted(name for name, _ in setting_names(RunConfig)) == sorted(CONTRACT.split())


@pytest.mark.parametrize(
    ("name", "default"),
    [
        ("crop.size_px", 513),
        ("crop.stride_px", 384),
        ("blend.window", "gaussian"),
        ("inference.scales", (1.0,)),
        ("inference.flips", ()),
        ("inference.fuse", "probabilities"),
        ("inference.precision", "auto"),
        ("inference.compile", "auto"),
        ("block.size_px", "auto"),
        ("output.logits", "lattice"),
        ("compute.executor", "ray"),
    ],
)
def test_the_defaults_are_those_of_the_contract(name, default):
    assert value_of(load(), name) == default


def test_the_help_lists_every_setting_with_its_default():
    text = describe_settings(RunConfig)
    for name, field in setting_names(RunConfig):
        assert f"  {name} = {default_text(field)}\n      {field.description}" in text
        assert field.description


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("source.urls=[a.tif, b.tif]", ("a.tif", "b.tif")),
        ("source.urls=b.tif", ("b.tif",)),
        ("source.bands=[3, nir, 1]", (3, "nir", 1)),
        ("source.nodata=-9999", -9999.0),
        ("source.scale=0.0001", 0.0001),
        ("source.scale=[1, 2]", (1.0, 2.0)),
        ("region.window=[-5, 0, 100, 200]", (-5, 0, 100, 200)),
        ("crop.size_px=17", None),  # a stride of 384 is too long for it
        ("blend.window=hann", "hann"),
        ("inference.scales=[0.75, 1, 1.25]", (0.75, 1.0, 1.25)),
        ("inference.flips=[h, v]", ("h", "v")),
        ("inference.flips=d4", ("d4",)),
        ("inference.compile=on", "on"),  # YAML reads on, off, yes, no, true and false as booleans
        ("inference.compile=off", "off"),
        ("inference.compile=true", "on"),
        ("inference.compile=false", "off"),
        ('inference.compile="on"', "on"),
        ("inference.compile=auto", "auto"),
        ("inference.batch=3", 3),
        ("block.size_px=3072", 3072),
        ("output.logits=full", "full"),
        ("output.overviews=off", False),
        ("compute.gpus_per_worker=0.5", 0.5),
        ("compute.gpus_per_worker=0", 0.0),
        ("compute.memory_gib=2.5", 2.5),
    ],
)
def test_legal_values(assignment, expected):
    if expected is None:
        with pytest.raises(SettingsError, match=r"below crop\.size_px = 17, got 384"):
            load(assignment)
    else:
        value = value_of(load(assignment), assignment.split("=")[0])
        assert value == expected
        assert type(value) is type(expected)


@pytest.mark.parametrize(
    "assignment",
    [
        "source.urls=[]",
        "source.order=oldest",
        "source.composite=mean",
        "source.resampling=lanczos",
        "source.nodata=none",
        "source.scale=.nan",
        "source.scale=[1, .inf]",
        "source.offset=abc",
        "source.bands=red",
        "region.bbox=[1, 2, 3]",
        "region.window=[1, 2, 3]",
        "region.window=[0, 0, 1.5, 2]",
        "crop.size_px=512",
        "crop.size_px=1",
        "crop.size_px=528",
        "crop.stride_px=100",
        "crop.stride_px=0",
        "crop.stride_px=-16",
        "crop.stride_px=528",
        "blend.window=box",
        "inference.scales=[]",
        "inference.scales=[0]",
        "inference.scales=[1, -0.5]",
        "inference.scales=[.nan]",
        "inference.flips=[x]",
        "inference.flips=[h, d4]",
        "inference.flips=[h, h]",
        "inference.fuse=votes",
        "inference.precision=fp8",
        "inference.compile=maybe",
        "inference.batch=0",
        "inference.batch=many",
        "block.size_px=0",
        "block.size_px=-1024",
        "block.size_px=1000",
        "block.size_px=large",
        "output.logits=all",
        "output.overviews=some",
        "compute.executor=dask",
        "compute.workers=0",
        "compute.threads_per_worker=0",
        "compute.gpus_per_worker=-1",
        "compute.memory_gib=0",
        "compute.memory_gib=.nan",
    ],
)
def test_illegal_values_are_refused_by_name(assignment):
    name, value = assignment.split("=")
    with pytest.raises(SettingsError, match=name.replace(".", r"\.")) as caught:
        load(assignment)
    said = str(caught.value)
    assert "got" in said
    assert "Traceback" not in said
    if not value.startswith("["):
        assert value.strip(".") in said.lower() or value == "none"


def test_a_region_is_given_in_one_way():
    with pytest.raises(SettingsError, match="a region must be given in one way, got bbox and window"):
        load("region.bbox=[0, 0, 1, 1]", "region.window=[0, 0, 1, 1]")


@pytest.mark.parametrize(("size_px", "stride_px"), [(513, 384), (17, 16), (33, 16), (1025, 1024), (769, 512)])
def test_crops_on_the_lattice_are_taken(size_px, stride_px):
    crop = load(f"crop.size_px={size_px}", f"crop.stride_px={stride_px}").crop
    assert (crop.size_px, crop.stride_px) == (size_px, stride_px)


def test_a_crop_off_the_lattice_is_told_with_its_neighbours():
    with pytest.raises(SettingsError, match="take 497 or 513"):
        load("crop.size_px=512")
