"""Metrics of trained networks, temperatures, curves."""

import sys

import numpy as np
import pytest
import torch

from allcnn_zoo.architectures import CIFAR10_CLASSES
from allcnn_zoo.training import calibration, time_to_accuracy
from allcnn_zoo.training.calibration import fit_temperature, metrics, metrics_with_mirror, soften
from allcnn_zoo.training.run_directory import draw_curve


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
    values = metrics(probabilities, np.zeros(4, np.int64), CIFAR10_CLASSES, 1.0)
    assert values["per_class"]["airplane"] == 1.0
    assert values["per_class"]["truck"] is None


def test_the_mirror_average_is_with_the_mirror_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def by_brightness(_: object, images: np.ndarray) -> np.ndarray:
        """Class 0 surely if the right half is bright, else class 1 hardly."""
        assert images.flags.c_contiguous
        bright = images[..., 16:].mean((1, 2, 3)) > 128
        return np.where(bright[:, None], [0.9, 0.1], [0.4, 0.6]).astype(np.float32)

    monkeypatch.setattr(calibration, "probabilities", by_brightness)
    images = np.zeros((3, 3, 32, 32), np.uint8)
    images[0, ..., :16] = 255  # the mirror image changes the answer of these two
    images[1, ..., 16:] = 255
    labels = np.array([0, 0, 1])
    values = metrics_with_mirror(None, images, labels, ("a", "b"), 1.0)  # type: ignore[arg-type]
    assert values["accuracy"] == pytest.approx(2 / 3)
    assert values["flip_averaged_accuracy"] == 1


LINES = [
    {"epoch": 1, "train_loss": 2.0, "train_accuracy": 0.2, "held_out_accuracy": None},
    {"epoch": 2, "train_loss": 1.0, "train_accuracy": 0.6, "held_out_accuracy": 0.7},
    {"epoch": 3, "train_loss": 0.5, "train_accuracy": 0.8, "held_out_accuracy": 0.9},
]


def test_time_to_accuracy_counts_epochs_and_seconds() -> None:
    lines = [{**line, "wall_seconds": 10.0} for line in LINES]
    times = [time_to_accuracy(lines, accuracy) for accuracy in (0.7, 0.895, 0.95)]
    assert times == [(2, 20.0), (3, 30.0), None]


def test_the_curve_shows_losses_and_accuracies(monkeypatch: pytest.MonkeyPatch) -> None:
    axes = pytest.importorskip("matplotlib.axes").Axes
    drawn: list[tuple[list[int], list[float]]] = []
    plot = axes.plot

    def remember(self: object, x: list[int], y: list[float], **options: object) -> object:
        drawn.append((list(x), list(y)))
        return plot(self, x, y, **options)

    monkeypatch.setattr(axes, "plot", remember)
    loss, accuracy, held_out = [2.0, 1.0, 0.5], [20, 60, 80], [70, 90]
    for lines, expected in (
        (LINES, [([1, 2, 3], loss), ([1, 2, 3], accuracy), ([2, 3], held_out)]),
        (LINES[:1], [([1], loss[:1]), ([1], accuracy[:1])]),
    ):
        drawn.clear()
        picture = draw_curve(lines, "best, seed 0")
        assert picture is not None
        assert picture.startswith(b"\x89PNG")
        assert drawn == expected


def test_without_matplotlib_or_with_a_mere_folder_of_that_name_there_is_no_curve(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)  # its import fails
    assert draw_curve(LINES, "best, seed 0") is None
