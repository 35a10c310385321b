"""Pictures of explanations, and the commands that write them."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from allcnn_zoo import Classifier, FeatureMap, checkpoint
from allcnn_zoo.cli import main
from allcnn_zoo.errors import UnknownNameError
from allcnn_zoo.explanation import (
    METHODS,
    draw_explanation,
    draw_filters,
    draw_layer,
    top_activations,
)

from ..conftest import EXAMPLES


@pytest.fixture(scope="module")
def weights(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    model = network().float()
    checkpoint.save(path, model.state_dict(), model.weights)
    return path


@pytest.fixture
def run(capsys, weights):
    def run(command: str, *words: object):
        status = main([command, "--weights", str(weights), *map(str, words)])
        captured = capsys.readouterr()
        out = json.loads(captured.out) if "--json" in words and status == 0 else captured.out
        return status, out, captured.err

    return run


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


@pytest.mark.parametrize(
    "target", [None, "ship", 3, np.int64(3), FeatureMap("conv4"), FeatureMap("conv4", 2)]
)
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
    assert draw_layer(model, images, top_activations(model, images)["classifier"]).width > 600


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
    assert [name.rpartition("/")[2] for name in written] == [
        "cat-guided.png",
        "cat-2-guided.png",
        "dog-guided.png",
    ]
    assert all(image["class"] == image["label"] for image in report["images"])
    assert all(is_png(name) for name in written)
    status, out, _ = run("explain", *words, "--class", "frog", "--method", "gradient")
    assert status == 0
    assert out.count("frog") >= 3
    assert (tmp_path / "new" / "out" / "dog-gradient.png").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["cat.png", "--class", "unicorn"], "no class is called 'unicorn'"),
        (["nothing.png"], "nothing.png"),
    ],
)
def test_a_mistake_leaves_nothing_behind(run, tmp_path, words, message) -> None:
    status, _, error = run("explain", EXAMPLES / words[0], *words[1:], "--out", tmp_path / "out")
    assert status == 1
    assert message in error
    assert not (tmp_path / "out").exists()


def test_a_file_where_the_folder_should_be_is_an_error(run, tmp_path) -> None:
    (tmp_path / "out").write_text("here")
    status, _, error = run("explain", EXAMPLES / "cat.png", "--out", tmp_path / "out")
    assert status == 1
    assert str(tmp_path / "out") in error


def test_features_writes_filters_and_a_sheet_for_each_layer(run, tmp_path, small_cifar10) -> None:
    words = ("--data", small_cifar10, "--maps", 2, "--top-k", 3, "--out", tmp_path / "out")
    status, report, _ = run("features", *words, "--json")
    assert status == 0
    assert report["images"] == 20
    layers = ["filters", *(f"conv{number}" for number in range(1, 9)), "classifier"]
    assert list(report["pictures"]) == layers
    assert all(is_png(name) for name in report["pictures"].values())


def test_an_unknown_method_is_refused(network) -> None:
    with pytest.raises(UnknownNameError):
        draw_explanation(Classifier(network().float()), EXAMPLES / "cat.png", method="magic")
