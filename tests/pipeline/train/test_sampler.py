"""Which samples a run has: the same for any number of workers, and rare classes among them."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import SettingsError
from pipeline.train.samples.batches import parts_of_step
from pipeline.train.samples.sampler import Sampler


@dataclass(frozen=True)
class Counted:
    """What the sampler looks at of a tile."""

    id: str
    class_pixels: tuple[int, ...]


TILES = (
    Counted("large", (90_000, 10_000, 0)),
    Counted("small", (9_000, 1_000, 0)),
    Counted("rare", (10_000, 0, 100)),
)


def sampler(tiles=TILES, *, crop_px=100, seed=3, rare_share=0.0, weights=None) -> Sampler:
    return Sampler(tiles, crop_px=crop_px, seed=seed, rare_share=rare_share, weights=weights)


def test_a_sample_depends_on_seed_and_number_alone():
    one, two = sampler(rare_share=0.5), sampler(rare_share=0.5)
    numbers = list(range(60))
    forth = {number: one.draw(number) for number in numbers}
    back = {number: two.draw(number) for number in reversed(numbers)}
    for number in numbers:
        assert (forth[number].tile, forth[number].target) == (back[number].tile, back[number].target)
        assert forth[number].rng.integers(1 << 40) == back[number].rng.integers(1 << 40)
    other = sampler(rare_share=0.5, seed=4)
    assert [other.draw(n).tile for n in numbers] != [forth[n].tile for n in numbers]


def test_an_epoch_sees_every_tile_in_proportion_and_each_epoch_in_another_order():
    drawn = sampler()
    # 120 100 labelled pixels are 12.01 crops of 100 px; 13 are shared out as 10.8, 1.08 and 1.09.
    assert drawn.epoch_length == 13
    epochs = [[drawn.draw(13 * epoch + place).tile for place in range(13)] for epoch in range(4)]
    for epoch in epochs:
        assert np.bincount(epoch).tolist() == [11, 1, 1]
    assert len({tuple(epoch) for epoch in epochs}) > 1
    assert all(drawn.draw(n).target is None for n in range(26))


def test_rare_classes_are_drawn_by_inverse_frequency_from_tiles_that_hold_them():
    drawn = [sampler(rare_share=1.0).draw(number) for number in range(2000)]
    targets = np.bincount([draw.target for draw in drawn], minlength=3) / 2000
    inverse = 1 / np.array([109_000, 11_000, 100])
    np.testing.assert_allclose(targets, inverse / inverse.sum(), atol=0.02)
    assert {draw.tile for draw in drawn if draw.target == 2} == {2}
    assert {draw.tile for draw in drawn if draw.target == 1} == {0, 1}


def test_a_class_of_one_pixel_does_not_take_all_draws_for_rare_classes():
    tiles = (Counted("large", (9_000_000, 990_000, 0)), Counted("slip", (9_999, 0, 1)))
    drawn = [sampler(tiles, rare_share=1.0).draw(number).target for number in range(1000)]
    counts = np.bincount(drawn, minlength=3)
    # An epoch has 1000 draws: the pixel is aimed at four times, and the others keep their inverse shares.
    assert 0 < counts[2] <= 15
    assert counts[1] / counts[:2].sum() == pytest.approx(9_009_999 / (9_009_999 + 990_000), abs=0.03)


def test_where_all_classes_are_scarce_they_are_drawn_all_the_same():
    tiles = (Counted("dots", (3, 1)),)
    drawn = [sampler(tiles, crop_px=1, rare_share=1.0).draw(number).target for number in range(400)]
    assert np.bincount(drawn, minlength=2).min() > 0


def test_the_share_of_rare_draws_is_kept():
    drawn = [sampler(rare_share=0.25).draw(number).target for number in range(2000)]
    assert np.mean([target is not None for target in drawn]) == pytest.approx(0.25, abs=0.03)


def test_weights_raise_and_exclude_tiles():
    drawn = sampler(weights={"small": 10.0, "rare": 0.0}, rare_share=0.3)
    tiles = np.bincount([drawn.draw(number).tile for number in range(600)], minlength=3)
    assert tiles[2] == 0
    assert tiles[1] / tiles[0] == pytest.approx(
        1.0, rel=0.35
    )  # equal areas in the order; roots among the rare
    assert all(drawn.draw(number).target != 2 for number in range(600))


def test_nothing_to_draw_is_refused():
    for tiles, weights in (
        ((), None),
        ((Counted("a", (0, 0)),), None),
        (TILES, dict.fromkeys(("large", "small", "rare"), 0.0)),
    ):
        with pytest.raises(
            SettingsError, match=r"labelled tiles of a weight above 0, got none among \d tiles"
        ):
            sampler(tiles, weights=weights)


@given(first=st.integers(0, 1000), batch=st.integers(1, 40), parts=st.integers(1, 5), world=st.integers(1, 6))
def test_a_step_is_the_same_samples_in_the_same_parts_for_any_number_of_ranks(first, batch, parts, world):
    alone = parts_of_step(first, batch, parts, rank=0, world_size=1)
    shared = [parts_of_step(first, batch, parts, rank=rank, world_size=world) for rank in range(world)]
    assert [n for part in alone for n in part] == list(range(first, first + batch))
    for index, part in enumerate(alone):
        pieces = [ranks[index] for ranks in shared]
        assert [n for piece in pieces for n in piece] == list(part)
        sizes = [len(piece) for piece in pieces]
        assert max(sizes) - min(sizes) <= 1
