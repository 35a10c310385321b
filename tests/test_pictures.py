"""The small pieces that pictures are made of."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from allcnn_zoo import pictures

RANDOM = np.random.default_rng(0)
SOLID = Image.new("RGB", (10, 20), "black")


def test_enlarging_keeps_every_pixel_a_square() -> None:
    pixels = RANDOM.integers(0, 256, (3, 4, 6), dtype=np.uint8)
    shown = np.array(pictures.enlarge(pixels, 18))
    assert shown.shape == (12, 18, 3)
    assert (shown == pixels.transpose(1, 2, 0).repeat(3, axis=0).repeat(3, axis=1)).all()


def test_signed_values_are_symmetric_about_a_neutral_zero() -> None:
    values = np.array([[-9.0, -1.0, -0.5, 0.0, 0.5, 1.0, 9.0]])
    shown = pictures.in_two_colours(values, 1.0)[:, 0].T.tolist()
    assert shown[3] == [255, 255, 255]
    assert shown[0] == shown[1] == list(pictures.NEGATIVE)
    assert shown[5] == shown[6] == list(pictures.POSITIVE)
    assert pictures.in_colour(values, 1.0)[0].tolist() == [0, 0, 64, 128, 191, 255, 255]


@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize("full", [1e-30, 1e30])
def test_contrast_does_not_depend_on_the_unit(full: float, sign: float) -> None:
    values = np.linspace(0, sign, 11)[None]
    once, scaled = (pictures.in_two_colours(values * unit, unit) for unit in (1.0, full))
    assert (once == scaled).all()


def test_a_signal_of_nothing_has_a_reach() -> None:
    assert pictures.reach(np.zeros((3, 2, 2))) == 1.0
    assert pictures.reach(np.array([-4.0])) == 4.0


def test_a_highlight_colours_only_where_it_is_strong() -> None:
    pixels = RANDOM.integers(0, 256, (3, 1, 3), dtype=np.uint8)
    pale, half, full = pictures.highlighted(pixels, np.array([[0.0, -0.5, 7.0]]), 1.0)[:, 0].T
    assert len(set(pale.tolist())) == 1
    assert tuple(full) == pictures.HIGHLIGHT
    assert half[0] > half[2]


@pytest.mark.parametrize("probability", [0.0, 0.001, 0.004, 0.01, 0.33, 1.0])
def test_a_bar_is_as_long_as_its_probability(probability: float) -> None:
    shown = np.array(pictures.bars([("cat", probability)], 200))
    blue = (shown[28] == [9, 105, 218]).all(axis=-1)
    assert blue.sum() == round(200 * probability)


@given(st.text(max_size=40), st.integers(20, 300))
@settings(max_examples=25)
def test_text_is_cut_to_its_width(words: str, width: int) -> None:
    assert pictures.text(words, width=width).width <= width + 1


def test_pieces_are_put_together_without_overlap() -> None:
    assert pictures.beside([SOLID, SOLID], gap=4).size == (24, 20)
    assert pictures.stacked([SOLID, SOLID, SOLID], gap=1).size == (10, 62)
    sheet = pictures.contact_sheet([SOLID] * 5, columns=3, gap=2)
    assert sheet.size == (34, 42)
    assert (np.array(sheet) == 0).all(axis=-1).sum() == 5 * 10 * 20
    framed = pictures.framed(pictures.padded(SOLID, 15), margin=3)
    assert framed.size == (21, 26)
    low = pictures.beside([SOLID.crop((0, 0, 10, 10)), SOLID], centred=True)
    assert [low.getpixel((0, y)) for y in (4, 5)] == [(255, 255, 255), (0, 0, 0)]


def test_a_picture_becomes_a_png_file() -> None:
    opened = Image.open(io.BytesIO(pictures.png(SOLID)))
    assert (opened.format, opened.size) == ("PNG", SOLID.size)
