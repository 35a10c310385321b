"""Figures of trained networks, temperatures, curves."""

import importlib.util

import numpy as np
import pytest
import torch

from allcnn_zoo.training import time_to_accuracy
from allcnn_zoo.training.curve import draw_curve
from allcnn_zoo.training.figures import figures, fit_temperature, soften


def test_the_temperature_of_known_logits_is_found() -> None:
    # Labels drawn from the softmax of the logits are calibrated at 1; so logits 1.7 times as large
    # are at 1.7.
    random = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(5_000, 10, generator=random)
    labels = torch.multinomial(logits.softmax(1), 1, generator=random)[:, 0].numpy()
    for factor in (0.6, 1.0, 1.7):
        probabilities = (factor * logits).softmax(1).numpy()
        assert fit_temperature(probabilities, labels) == pytest.approx(factor, abs=0.05)


def test_softened_probabilities_are_those_of_the_divided_logits() -> None:
    logits = torch.randn(5, 10, generator=torch.Generator().manual_seed(0))
    expected = (logits / 2).softmax(1).numpy()
    assert soften(logits.softmax(1).numpy(), 2.0) == pytest.approx(expected, abs=1e-6)


def test_classes_without_images_have_no_accuracy() -> None:
    probabilities = np.full((4, 10), 0.1, np.float32)
    values = figures(probabilities, np.zeros(4, np.int64), 1.0)
    assert values["per_class"]["airplane"] == 1.0
    assert values["per_class"]["truck"] is None


LINES = [
    {"epoch": 1, "train_loss": 2.0, "train_accuracy": 0.2, "held_out_accuracy": None},
    {"epoch": 2, "train_loss": 1.0, "train_accuracy": 0.6, "held_out_accuracy": 0.7},
    {"epoch": 3, "train_loss": 0.5, "train_accuracy": 0.8, "held_out_accuracy": 0.9},
]


def test_time_to_accuracy_counts_epochs_and_seconds() -> None:
    lines = [{**line, "wall_seconds": 10.0} for line in LINES]
    assert time_to_accuracy(lines, 0.7) == (2, 20.0)
    assert time_to_accuracy(lines, 0.895) == (3, 30.0)
    assert time_to_accuracy(lines, 0.95) is None


@pytest.mark.skipif(not importlib.util.find_spec("matplotlib"), reason="no matplotlib")
@pytest.mark.parametrize("lines", [LINES, LINES[:1]])
def test_the_curve_is_a_picture(lines: list[dict[str, object]]) -> None:
    assert draw_curve(lines, "best, seed 0").startswith(b"\x89PNG")
