"""Figures that mean what their names say."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from allcnn_zoo import AllCNN, Architecture, Classifier, Metadata, evaluate
from allcnn_zoo.errors import AllCNNZooError, DatasetError, ImageError, UnknownNameError
from allcnn_zoo.evaluation import expected_calibration_error, label_folder, summarize

CLASSES = ("a", "b", "c")


def test_figures_of_a_case_worked_by_hand() -> None:
    probabilities = np.array(
        [[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.1, 0.8, 0.1], [0.5, 0.4, 0.1]], np.float32
    )
    labels = np.array([0, 1, 1, 0])
    result = summarize(probabilities, labels, CLASSES, seconds=2.0)
    assert result.images == 4
    assert result.accuracy == 0.75
    assert result.error == 0.25
    assert result.confusion == ((2, 0, 0), (1, 1, 0), (0, 0, 0))
    assert result.per_class["a"] == 1.0
    assert result.per_class["b"] == 0.5
    assert math.isnan(result.per_class["c"])
    values = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert values["per_class"] == {"a": 1.0, "b": 0.5, "c": None}
    expected = -(math.log(0.7) + math.log(0.3) + math.log(0.8) + math.log(0.5)) / 4
    assert result.nll == pytest.approx(expected, rel=1e-6)
    # Four bins of one: |0.7-1|, |0.6-0|, |0.8-1|, |0.5-1|, each a quarter.
    assert result.ece == pytest.approx((0.3 + 0.6 + 0.2 + 0.5) / 4, rel=1e-5)


def test_certainty_is_in_the_last_bin_and_certain_error_is_finite() -> None:
    probabilities = np.array([[1.0, 0.0, 0.0]], np.float32)
    result = summarize(probabilities, np.array([1]), CLASSES, seconds=1.0)
    assert result.ece == 1.0
    assert math.isfinite(result.nll)


@pytest.fixture
def classifier(monkeypatch) -> Classifier:
    architecture = Architecture(num_classes=3, widths=(4, 6))
    model = AllCNN(architecture)
    model.weights = Metadata("small", architecture, CLASSES)
    return Classifier(model)


IMAGES = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32), np.uint8)


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        ([0, 9], DatasetError, r"labels are 0\.\.\.9, and small has 3 classes"),
        ([-1, 0], DatasetError, r"labels are -1\.\.\.0"),
        ([0], ImageError, "2 images and 1 labels"),
        ([], ImageError, "2 images and 0 labels"),
        ([0.0, 1.0], DatasetError, r"float64 \(2,\)"),
        (["a", "b"], DatasetError, "integers"),
        ([[0, 1], [1, 0]], DatasetError, r"int64 \(2, 2\)"),
        ([[0], [1, 2]], DatasetError, "integers"),
        (None, DatasetError, "integers"),
        ([True, False], DatasetError, "bool"),
        (torch.tensor([0, 1]).to_sparse(), DatasetError, "integers"),
        (torch.empty(2, dtype=torch.int64, device="meta"), DatasetError, "integers"),
    ],
)
def test_labels_that_do_not_belong_are_refused_before_any_work(
    classifier, monkeypatch, labels, error, message
) -> None:
    monkeypatch.setattr(classifier, "predict_proba", lambda *_, **__: pytest.fail("it has begun"))
    with pytest.raises(error, match=message):
        evaluate(classifier, IMAGES, labels)


@pytest.mark.parametrize("wrong", [torch.nn.Linear(1, 1), "allcnn_c", None])
def test_what_is_no_classifier_is_named(wrong) -> None:
    with pytest.raises(AllCNNZooError, match=f"not a {type(wrong).__name__}"):
        evaluate(wrong, IMAGES, [0, 1])


@pytest.mark.parametrize("images", [None, 5, (image for image in IMAGES), "ab", b"ab", IMAGES[0]])
def test_images_that_cannot_be_counted_are_refused(classifier, images) -> None:
    with pytest.raises(ImageError, match=f"not a {type(images).__name__}"):
        evaluate(classifier, images, [0, 1])


@pytest.mark.parametrize("counts", [(1, 2), (2, 1)])
def test_batches_in_a_list_are_not_taken_for_images(classifier, counts) -> None:
    with pytest.raises(ImageError, match="join batches"):
        evaluate(classifier, [np.stack([IMAGES[0]] * count) for count in counts], [0, 1])


def test_images_and_labels_may_be_of_any_usual_kind_and_a_network_is_a_classifier(
    classifier,
) -> None:
    expected = evaluate(classifier, IMAGES, np.array([0, 2]))
    tensor = torch.from_numpy(IMAGES)
    pictures = [Image.fromarray(image.transpose(1, 2, 0)) for image in IMAGES]
    for images, labels in ((tensor, torch.tensor([0, 2])), (pictures, [0, 2])):
        for judged in (classifier, classifier.model):
            found = evaluate(judged, images, labels)
            assert (found.confusion, found.nll) == (expected.confusion, expected.nll)


def test_folders_named_after_the_classes_give_labels(tmp_path) -> None:
    for name in ("B/2.png", "B/1.jpg", "a/x/3.webp", "c/4.txt", ".git/5.png", "6.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    paths, labels = label_folder(tmp_path, CLASSES)
    assert paths == [tmp_path / name for name in ("B/1.jpg", "B/2.png", "a/x/3.webp")]
    assert labels.tolist() == [1, 1, 0]
    with pytest.raises(UnknownNameError, match=r"no class of these weights.* is called 'B'"):
        label_folder(tmp_path, ("a", "bird"))
    with pytest.raises(ImageError, match="no folders of images named after the classes"):
        label_folder(tmp_path / "a" / "x", CLASSES)
    with pytest.raises(ImageError, match="no folders"):
        label_folder(tmp_path / "nowhere", CLASSES)


def test_the_calibration_error_has_fifteen_bins_of_equal_width() -> None:
    neighbors = np.array([0.62, 0.68], np.float32)  # 9/15 < 0.62 < 10/15 < 0.68
    error = expected_calibration_error(neighbors, np.array([True, False]))
    assert error == pytest.approx((0.38 + 0.68) / 2, abs=1e-6)
    within = np.array([0.61, 0.66], np.float32)
    error = expected_calibration_error(within, np.array([True, False]))
    assert error == pytest.approx(abs(0.61 + 0.66 - 1) / 2, abs=1e-6)


@given(st.lists(st.tuples(st.floats(0, 1, width=32), st.booleans()), min_size=1, max_size=50))
@settings(deadline=None)
def test_calibration_error_is_a_fraction_and_ignores_the_order(pairs) -> None:
    confidence = np.array([pair[0] for pair in pairs], np.float32)
    correct = np.array([pair[1] for pair in pairs])
    error = expected_calibration_error(confidence, correct)
    assert 0 <= error <= 1
    backwards = expected_calibration_error(confidence[::-1], correct[::-1])
    assert error == pytest.approx(backwards, abs=1e-12)
