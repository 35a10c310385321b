"""Which images, in which order, shifted and flipped how."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from allcnn_zoo.errors import TrainingError
from allcnn_zoo.preprocessing import Preprocessor
from allcnn_zoo.training import RECIPES
from allcnn_zoo.training.augmentation import (
    Whitening,
    augment,
    crop,
    cut_out,
    plan_epoch,
    resolution,
    split_indices,
    wrapping_order,
)

BEST, PLAIN, NEON = (RECIPES[name] for name in ("best", "plain", "neon"))


def test_batches_of_neon_wrap_round_the_end_of_the_data() -> None:
    orders = [wrapping_order(50_000, 128, epoch) for epoch in range(12)]
    starts = [int(order[0]) for order in orders]
    assert starts == [0, 48, 96, 16, 64, 112, 32, 80, 80, 80, 80, 80]
    counts = [len(order) // 128 for order in orders]
    assert counts == [391, 391, 390, 391, 391, 390, 391, 390, 390, 390, 390, 390]
    assert orders[-1].min() == 80
    assert orders[0][-48:].tolist() == list(range(48))


@given(st.integers(1, 60), st.integers(1, 20), st.integers(0, 8))
def test_wrapping_goes_on_where_the_epoch_before_ended(
    count: int, batch_size: int, epoch: int
) -> None:
    count = max(count, batch_size)
    order = wrapping_order(count, batch_size, epoch)
    assert len(order) % batch_size == 0
    assert np.array_equal(np.diff(order) % count, np.ones(len(order) - 1) % count)
    following = wrapping_order(count, batch_size, epoch + 1)
    if order[-1] == count - 1:  # an exact fit begins again where it began
        assert following[0] == order[0]
    else:
        assert following[0] == (order[-1] + 1) % count


def test_shuffled_epochs_show_each_image_at_most_once() -> None:
    def shown(seed: int, epoch: int) -> np.ndarray:
        batches = plan_epoch(BEST, 1100, seed, epoch).batches
        assert [len(batch) for batch in batches] == [512, 512]
        return np.concatenate(batches)

    order = shown(0, 4)
    assert len(set(order.tolist())) == 1024
    assert np.array_equal(order, shown(0, 4))
    assert not np.array_equal(order, shown(0, 5))
    assert not np.array_equal(order, shown(1, 4))


def test_only_best_shifts_and_shows_each_image_and_its_mirror_image_in_turn() -> None:
    assert np.abs(plan_epoch(BEST, 600, 0, 0).shifts).max() == 4
    flipped = [plan_epoch(BEST, 600, 0, epoch).flipped for epoch in range(3)]
    assert 200 < flipped[0].sum() < 400
    assert np.array_equal(flipped[0], ~flipped[1])
    assert np.array_equal(flipped[0], flipped[2])
    for recipe in (PLAIN, NEON):
        plan = plan_epoch(recipe, 600, 0, 1)
        assert not plan.shifts.any()
        assert not plan.flipped.any()


def test_too_few_images_for_a_batch() -> None:
    with pytest.raises(TrainingError, match="100 images do not fill a batch of 512"):
        plan_epoch(BEST, 100, 0, 0)


def test_the_split_is_the_one_that_every_published_figure_was_measured_on() -> None:
    training, held_out = split_indices(50_000, 5_000)
    assert len(training) == 45_000
    assert np.array_equal(np.sort(np.concatenate([training, held_out])), np.arange(50_000))
    assert held_out[:5].tolist() == [0, 7, 16, 37, 49]
    assert len(split_indices(100, 0)[1]) == 0
    for holdout in (-1, 100):
        with pytest.raises(TrainingError, match=f"cannot hold out {holdout} of 100"):
            split_indices(100, holdout)


@settings(deadline=None, max_examples=25)
@given(st.integers(-4, 4), st.integers(-4, 4), st.booleans())
def test_augment_moves_reflects_and_mirrors(down: int, right: int, mirror: bool) -> None:
    images = torch.arange(3 * 32 * 32).remainder(251).to(torch.uint8).view(1, 3, 32, 32)
    shown = augment(images, np.array([[down, right]]), np.array([mirror]))
    padded = torch.nn.functional.pad(images.float(), (4, 4, 4, 4), mode="reflect")
    expected = padded[:, :, 4 - down : 36 - down, 4 - right : 36 - right]
    expected = expected.flip(-1) if mirror else expected
    assert torch.equal(shown.float(), expected)
    assert shown.dtype == torch.uint8


def test_resolution_grows_and_crops_fit() -> None:
    assert [resolution(BEST, progress) for progress in (0, 0.19, 0.2, 0.5, 0.8, 0.99)] == [
        20, 20, 24, 28, 32, 32,
    ]  # fmt: skip
    images = torch.randn(2, 3, 32, 32)
    window = crop(images, 20, np.random.default_rng(0))
    assert window.shape == (2, 3, 20, 20)
    assert torch.equal(crop(images, 32, np.random.default_rng(0)), images)


def test_cutout_blanks_a_square_of_each_image() -> None:
    images = torch.ones(500, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    blank = cut_out(images, 8, np.random.default_rng(0)) == 0
    assert torch.equal(blank[:, 0], blank[:, 2])
    rows, columns = blank[:, 0].any(2), blank[:, 0].any(1)
    assert torch.equal(blank[:, 0], rows[:, :, None] & columns[:, None, :])
    for line in (rows, columns):  # eight neighbors, and not the same in every image
        assert (line.sum(1) == 8).all()
        assert (line.float().diff(dim=1).abs().sum(1) <= 2).all()
        assert line.any(0).all()
    assert blank.is_contiguous(memory_format=torch.channels_last)
    untouched = torch.ones(2, 3, 32, 32)
    assert cut_out(untouched, 0, np.random.default_rng(0)).all()


def test_whitening_is_the_networks_own() -> None:
    preprocess = Preprocessor.shipped()
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    images[0] = 7  # a constant image
    whiten = Whitening(preprocess, torch.float32)
    assert torch.allclose(whiten(images), preprocess(images), atol=1e-5)
    assert whiten(images).is_contiguous(memory_format=torch.channels_last)
