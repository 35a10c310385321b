"""Figures that mean what their names say."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allcnn_zoo import AllCNN, Architecture, Classifier, Metadata, evaluate
from allcnn_zoo.errors import DatasetError, ImageError
from allcnn_zoo.evaluation import expected_calibration_error, summarise

CLASSES = ("a", "b", "c")


def test_figures_of_a_case_worked_by_hand() -> None:
    probabilities = np.array(
        [[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.1, 0.8, 0.1], [0.5, 0.4, 0.1]], np.float32
    )
    labels = np.array([0, 1, 1, 0])
    result = summarise(probabilities, labels, CLASSES, seconds=2.0)
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
    result = summarise(probabilities, np.array([1]), CLASSES, seconds=1.0)
    assert result.ece == 1.0
    assert math.isfinite(result.nll)


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        ([0, 9], DatasetError, r"labels are 0\.\.\.9, and small tells apart 3 classes"),
        ([-1, 0], DatasetError, r"labels are -1\.\.\.0"),
        ([0], ImageError, "2 images and 1 labels"),
    ],
)
def test_labels_that_do_not_belong_are_refused(labels, error, message) -> None:
    architecture = Architecture(num_classes=3, widths=(4, 6))
    model = AllCNN(architecture)
    model.weights = Metadata("small", architecture, CLASSES)
    images = np.zeros((2, 3, 32, 32), np.uint8)
    with pytest.raises(error, match=message):
        evaluate(Classifier(model), images, np.array(labels))


@given(st.lists(st.tuples(st.floats(0, 1, width=32), st.booleans()), min_size=1, max_size=50))
@settings(deadline=None)
def test_calibration_error_is_a_fraction_and_ignores_the_order(pairs) -> None:
    confidence = np.array([pair[0] for pair in pairs], np.float32)
    correct = np.array([pair[1] for pair in pairs])
    error = expected_calibration_error(confidence, correct)
    assert 0 <= error <= 1
    backwards = expected_calibration_error(confidence[::-1], correct[::-1])
    assert error == pytest.approx(backwards, abs=1e-12)
