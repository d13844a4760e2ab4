"""Settings of a training run: names that are contracts, and slips refused in sentences."""

import pytest

from deeplab_core.loss_config import LossConfig
from pipeline.errors import ModelError, SettingsError
from pipeline.settings import load_settings, setting_names
from pipeline.train.config import LossSettings, TrainConfig
from tests.pipeline.train.small_tiles import job_of, settings, write_config, write_tile, write_tiles


@pytest.fixture
def document(tiles, tmp_path):
    return settings(tiles, tmp_path / "model")


def refusal(document, tmp_path, *assignments: str) -> str:
    path = write_config(tmp_path / "run.yaml", document)
    with pytest.raises(SettingsError) as refused:
        load_settings(TrainConfig, config_url=str(path), assignments=assignments, flags={})
    return str(refused.value)


def test_the_names_that_others_rely_on():
    names = {name for name, _ in setting_names(TrainConfig)}
    assert {
        "tiles.url", "tiles.images", "tiles.labels", "labels.values", "labels.ignore", "model", "output.url",
        "train.max_minutes", "train.max_steps", "train.batch", "train.workers", "train.seed", "train.init",
    } <= names  # fmt: skip
    assert all(field.description for _, field in setting_names(TrainConfig))


def test_the_losses_settings_are_the_model_librarys():
    ours, theirs = LossSettings().model_dump(), LossConfig().model_dump()
    theirs.pop("ignore_index")  # 255, as tiles have it
    assert ours == theirs
    given = LossSettings(dice=0.5, class_weights=(1.0, 2.0), top_k_percent=30.0, mining_steps=5).config()
    assert (given.dice, given.class_weights, given.top_k_percent) == (0.5, (1.0, 2.0), 30.0)


@pytest.mark.parametrize(
    ("assignment", "sentence"),
    [
        ("train.max_steps=null", "train.max_steps or train.max_minutes must be given: training needs an end"),
        ("train.accumulate=9", "train.accumulate must be at most train.batch = 4, got 9"),
        ("train.workers=[3, 2]", "the fewest and the most workers, got [3, 2]"),
        ("train.loss.dise=1", "there is no setting 'train.loss.dise'; the nearest is 'train.loss.dice'"),
        ("train.loss.top_k_percent=0.2", "write 20 for the hardest fifth of the pixels"),
        ("model.backbon=resnet18", "model: backbon: Extra inputs are not permitted"),
        ("model.backbone=resnet19", "model: backbone of deeplabv3plus must be one of"),
        ("augment.scale=[2, 1]", "the smallest and the largest magnification, got [2.0, 1.0]"),
        ("sampling.rare_share=1.5", "sampling.rare_share"),
        ("train.ema=1.0", "train.ema"),
    ],
)
def test_slips_are_refused_in_a_sentence(document, tmp_path, assignment, sentence):
    assert sentence in refusal(document, tmp_path, assignment)


def test_classes_bands_and_statistics_come_from_the_tiles(document):
    job = job_of(document)
    assert job.model.classes == ("water", "forest", "field")
    assert job.model.bands == ("red", "green", "nir")
    assert job.model.in_channels == 3
    assert job.mean == job.statistics.mean
    assert sum(job.statistics.class_pixels) > 0
    assert len(job.tiles.of("val")) >= 1


@pytest.mark.parametrize(
    ("groups", "sentence"),
    [
        ({"train": {"crop_px": 64}}, "multiple of model.output_stride = 16 plus 1, got 64; take 49 or 65"),
        ({"train": {"batch": 1}}, "batch norms must see at least 2 crops at a time, got 1"),
        ({"train": {"batch": 4, "accumulate": 4}}, "in train.accumulate 4 parts"),
        (
            {"train": {"batch": 4, "workers": 4, "sync_bn": False}},
            "on 4 workers without train.sync_bn); raise train.batch or set train.freeze_bn",
        ),
        ({"sampling": {"weights": {"scene-*": 2.0}}}, "'scene-*' must fit the id of a training tile, but"),
        ({"sampling": {"weights": {"*": 0.0}}}, "labelled tiles of a weight above 0"),
        ({"train": {"loss": {"class_weights": [1.0, 2.0]}}}, "one number for each of 3 classes"),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_tiles_is_refused_before_anything_starts(document, groups, sentence):
    for name, values in groups.items():
        document[name] = {**document.get(name, {}), **values}
    with pytest.raises((SettingsError, ModelError)) as refused:
        job_of(document)
    assert sentence in str(refused.value)


def test_bands_that_are_not_the_tiles_are_refused_with_both_lists(document):
    document["model"] |= {"bands": ["nir", "green", "red"]}
    with pytest.raises(ModelError) as refused:
        job_of(document)
    assert "['red', 'green', 'nir'], got ['nir', 'green', 'red']" in str(refused.value)


def test_weights_of_tiles_by_pattern_the_last_that_fits_counts(tiles, tmp_path):
    names = [tile.id for tile in job_of(settings(tiles, tmp_path / "model")).tiles.of("train")]
    weights = {"*": 2.0, f"*{names[0][-1]}": 5.0}
    job = job_of(settings(tiles, tmp_path / "model", sampling={"weights": weights}))
    assert job.tile_weights == {name: 5.0 if name == names[0] else 2.0 for name in names}


def test_the_fingerprint_knows_the_tiles_and_the_recipe_but_not_the_workers(tmp_path):
    tiles = write_tiles(tmp_path / "set", count=4)
    document = settings(tiles, tmp_path / "model")
    before = job_of(document).fingerprint_fields()
    document["train"] |= {"workers": 2, "keep": 7, "checkpoint_steps": 3}
    document["compute"] |= {"loaders": 2, "cache_mib": 1}
    assert job_of(document).fingerprint_fields() == before
    document["augment"] = {"flips": False}
    assert job_of(document).fingerprint_fields() != before
    write_tile(tiles, "tile-0", seed=77)
    changed = job_of(settings(tiles, tmp_path / "model")).fingerprint_fields()
    assert changed["tiles"] != before["tiles"]


def test_a_class_that_no_training_tile_holds_is_told(document, caplog):
    job_of(document)
    assert "will not be learnt" not in caplog.text
    document["labels"]["values"] = {**document["labels"]["values"], 77: "glacier"}
    job = job_of(document)
    assert job.statistics.class_pixels[job.tiles.classes.index("glacier")] == 0
    assert "no tile of the training split holds glacier: it will not be learnt" in caplog.text


def test_rates_that_reach_beyond_every_crop_are_told(document, caplog):
    document["train"] |= {"crop_px": 129}
    document["model"] |= {"rates": [2, 4, 8]}
    job_of(document)
    assert "will never learn" not in caplog.text
    document["model"] |= {"rates": [4, 9, 18]}
    job_of(document)
    assert (
        "outer taps of model.rates 9, 18 will never learn, because train.crop_px = 129 gives 9 features"
        in caplog.text
    )
    assert "or rates of at most 4" in caplog.text
