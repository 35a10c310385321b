"""Drawings of attributions, the pieces they are made of, and the commands that write them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from allcnn_zoo import Classifier, FeatureMap
from allcnn_zoo.explanation import (
    METHODS,
    draw_explanation,
    draw_filters,
    draw_layer,
    drawing,
    top_activations,
)

from ..conftest import EXAMPLES


@pytest.fixture(scope="module")
def weights(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    network().float().save(path)
    return path


@pytest.fixture
def run(run, weights):
    return lambda command, *words: run(command, "--weights", weights, *words)


def contains(picture: Image.Image, part: np.ndarray) -> bool:
    """Whether the part is somewhere in the picture, pixel for pixel."""
    windows = np.lib.stride_tricks.sliding_window_view(np.array(picture), part.shape[:2], (0, 1))
    corner = part[0, 0]
    starts = (windows[..., 0, 0] == corner).all(axis=-1).nonzero()
    return any(
        (windows[y, x].transpose(1, 2, 0) == part).all() for y, x in zip(*starts, strict=True)
    )


def is_png(path: str) -> bool:
    with Image.open(path) as picture:
        picture.load()
        return picture.format == "PNG"


@pytest.mark.parametrize("target", [None, np.int64(3), FeatureMap("conv4"), FeatureMap("conv4", 2)])
def test_an_explanation_shows_the_image_itself(network, target) -> None:
    classifier, path = Classifier(network().float()), EXAMPLES / "cat.png"
    picture = draw_explanation(classifier, path, target)
    large = np.array(Image.open(path)).repeat(6, axis=0).repeat(6, axis=1)
    assert contains(picture, large)


def test_explanations_differ_by_method_and_target(network) -> None:
    classifier, path = Classifier(network().float()), EXAMPLES / "cat.png"
    pictures = {
        draw_explanation(classifier, path, target, method=method, title="one").tobytes()
        for target in ("cat", "dog")
        for method in METHODS
    }
    assert len(pictures) == 6


def test_a_layer_shows_patches_of_its_best_images(network, images) -> None:
    model = network()
    top = top_activations(model, images, k=2)["conv2"]
    picture = draw_layer(model, images, top, maps=3)
    best = int(top.values[:, 0].argmax())
    image = images[top.images[best, 0]].numpy()
    rows, columns = (top.field.window(place, 32) for place in top.positions[best, 0].tolist())
    patch = image[:, rows, columns].transpose(1, 2, 0)
    assert contains(picture, patch.repeat(13, axis=0).repeat(13, axis=1))
    assert picture.height > draw_layer(model, images, top, maps=1).height


def test_classes_may_have_no_names(network, images) -> None:
    model = network()
    model.reset_classifier(3)
    assert draw_layer(model, images, top_activations(model, images)["classifier"]).width > 500


def test_filters_are_drawn_at_full_contrast_about_grey(network) -> None:
    model = network()
    with torch.no_grad():
        model.features.conv1.weight.zero_()
    colours = {colour for _, colour in draw_filters(model).getcolors(100_000)}
    assert (128, 128, 128) in colours
    assert all(max(colour) - min(colour) < 30 for colour in colours)


def test_explain_writes_a_picture_for_each_image(run, tmp_path) -> None:
    other = tmp_path / "cat.png"
    other.write_bytes((EXAMPLES / "ship.png").read_bytes())
    words = (EXAMPLES / "cat.png", other, EXAMPLES / "dog.png", "--out", tmp_path / "new" / "out")
    status, report, _ = run("explain", *words, "--json")
    assert status == 0
    written = [image["picture"] for image in report["images"]]
    names = ["cat-guided.png", "cat-2-guided.png", "dog-guided.png"]
    assert [name.rpartition("/")[2] for name in written] == names
    assert all(image["class"] == image["label"] for image in report["images"])
    assert all(is_png(name) for name in written)
    status, out, _ = run("explain", *words, "--class", "frog", "--method", "gradient")
    assert status == 0
    assert out.count("frog") >= 3
    assert (tmp_path / "new" / "out" / "dog-gradient.png").exists()


def test_a_mistake_leaves_nothing_behind(run, tmp_path) -> None:
    out = tmp_path / "out"
    for words, message in (
        (["cat.png", "--class", "unicorn"], "no class is called 'unicorn'"),
        (["nothing.png"], "nothing.png"),
    ):
        status, _, error = run("explain", EXAMPLES / words[0], *words[1:], "--out", out)
        assert status == 1
        assert message in error
        assert not out.exists()
    out.write_text("here")
    status, _, error = run("explain", EXAMPLES / "cat.png", "--out", out)
    assert status == 1
    assert str(out) in error


def test_features_writes_filters_and_a_sheet_for_each_layer(run, tmp_path, small_cifar10) -> None:
    words = ("--data", small_cifar10, "--maps", 2, "--top-k", 3, "--out", tmp_path / "out")
    status, report, _ = run("features", *words, "--json")
    assert status == 0
    assert report["images"] == 20
    layers = ["filters", *(f"conv{number}" for number in range(1, 9)), "classifier"]
    assert list(report["pictures"]) == layers
    assert all(is_png(name) for name in report["pictures"].values())


# The pieces.

RANDOM = np.random.default_rng(0)
SOLID = Image.new("RGB", (10, 20), "black")


def test_enlarging_keeps_every_pixel_a_square() -> None:
    pixels = RANDOM.integers(0, 256, (3, 4, 6), dtype=np.uint8)
    shown = np.array(drawing.enlarge(pixels, 18))
    assert shown.shape == (12, 18, 3)
    assert (shown == pixels.transpose(1, 2, 0).repeat(3, axis=0).repeat(3, axis=1)).all()


def test_signed_values_are_symmetric_about_a_neutral_zero() -> None:
    values = np.array([[-1.0, -0.5, 0.0, 0.5, 1.0]])
    shown = drawing.in_two_colors(values)[:, 0].T.tolist()
    assert shown[0] == list(drawing.NEGATIVE)
    assert shown[2] == [255, 255, 255]
    assert shown[4] == list(drawing.POSITIVE)
    wider = np.array([[-9.0, *values[0], 9.0]])
    assert drawing.in_color(wider, 1.0)[0].tolist() == [0, 0, 64, 128, 191, 255, 255]


@pytest.mark.parametrize("draw", [drawing.in_two_colors, drawing.in_color])
@pytest.mark.parametrize("unit", [-1e30, -1e-30, 1e-30, 1e30])
def test_contrast_does_not_depend_on_the_unit(draw, unit: float) -> None:
    values = np.linspace(0, 1, 11)[None]
    assert (draw(values * unit) == draw(values * np.sign(unit))).all()


def test_outliers_do_not_take_the_contrast_and_nothing_has_one() -> None:
    assert drawing.full_contrast(np.zeros((3, 2, 2))) == 1.0
    assert drawing.full_contrast(np.array([-4.0])) == 4.0
    assert drawing.full_contrast(np.array([2.0] * 999 + [-1e6])) == 2.0


def test_a_highlight_colors_only_where_it_is_strong() -> None:
    pixels = RANDOM.integers(0, 256, (3, 1, 3), dtype=np.uint8)
    pale, half, full = drawing.highlighted(pixels, np.array([[0.0, -0.5, 1.0]]))[:, 0].T
    assert len(set(pale.tolist())) == 1
    assert tuple(full) == drawing.HIGHLIGHT
    assert half[0] > half[2]


@pytest.mark.parametrize("probability", [0.0, 0.001, 0.004, 0.01, 0.33, 1.0])
def test_a_bar_is_as_long_as_its_probability(probability: float) -> None:
    shown = np.array(drawing.bars([("cat", probability)], 200))
    blue = (shown[28] == [9, 105, 218]).all(axis=-1)
    assert blue.sum() == round(200 * probability)


@given(st.text(max_size=40), st.integers(20, 300))
@settings(max_examples=25)
def test_text_is_cut_to_its_width(words: str, width: int) -> None:
    assert drawing.text(words, width=width).width <= width + 1


def test_pieces_are_put_together_without_overlap() -> None:
    grid = drawing.grid([[SOLID] * 3, [SOLID] * 2], 4, gap_below=1)
    assert grid.size == (38, 41)
    assert (np.array(grid) == 0).all(axis=-1).sum() == 5 * 10 * 20
    low = drawing.grid([[SOLID.crop((0, 0, 10, 10)), SOLID]], 0, centered=True)
    assert [low.getpixel((0, y)) for y in (4, 5)] == [(255, 255, 255), (0, 0, 0)]
    columns = drawing.grid([[SOLID.resize((30, 5)), SOLID], [SOLID, SOLID]], 2)
    assert [columns.getpixel((32, y)) for y in (0, 22)] == [(0, 0, 0), (0, 0, 0)]
