"""Measures bundled weights on CIFAR-10's test images, and draws the pictures of their cards.

    ALLCNN_ZOO_DATA=DIR python docs/draw_model_cards.py [TAG ...]    # all bundled ones

Writes benchmarks/results/cards/TAG.json, from which docs/generate.py makes the text of the card,
and docs/pictures/TAG_*.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import plots
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from allcnn_zoo import CIFAR10, Classifier, list_weights
from allcnn_zoo.architectures import CIFAR10_CLASSES
from allcnn_zoo.cifar import Split
from allcnn_zoo.evaluation import CALIBRATION_BINS, expected_calibration_error
from allcnn_zoo.training.figures import soften
from allcnn_zoo.weights import ASSETS

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "cards"
PICTURES = ROOT / "docs" / "pictures"
MISTAKES = 10

Floats = npt.NDArray[np.float32]


def reliability(probabilities: Floats, labels: npt.NDArray[np.int64]) -> dict[str, Any]:
    """How often the classifier is right where it says that it is that sure, bin by bin."""
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    filled = [np.flatnonzero(bins == number) for number in range(CALIBRATION_BINS)]
    return {
        "ece": expected_calibration_error(confidence, correct),
        "bins": [
            {
                "from": number / CALIBRATION_BINS,
                "images": len(rows),
                "confidence": float(confidence[rows].mean()) if len(rows) else None,
                "accuracy": float(correct[rows].mean()) if len(rows) else None,
            }
            for number, rows in enumerate(filled)
        ],
    }


def measure(tag: str, file: Path, test: Split) -> dict[str, Any]:
    """Everything that the card says beyond the results of the training run."""
    classifier = Classifier.from_pretrained(tag)
    after = classifier.predict_proba(test.images, progress=True)
    before = soften(after, 1 / classifier.weights.temperature)
    predicted, confidence = after.argmax(axis=1), after.max(axis=1)
    wrong = np.flatnonzero(predicted != test.labels)
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:MISTAKES]
    return {
        "weights_sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "images": len(test),
        "mistakes": len(wrong),
        "mistakes_above_90_percent": int((confidence[wrong] > 0.9).sum()),
        "answers_above_90_percent": int((confidence > 0.9).sum()),
        "before_temperature": reliability(before, test.labels),
        "after_temperature": reliability(after, test.labels),
        "most_confident_mistakes": [
            {
                "filename": test.filenames[row],
                "true": CIFAR10_CLASSES[test.labels[row]],
                "predicted": CIFAR10_CLASSES[predicted[row]],
                "probability": round(float(confidence[row]), 4),
            }
            for row in worst
        ],
    }


def draw_confusion(tag: str) -> None:
    """The confusion matrix of the training run's results; only mistakes are coloured."""
    results = json.loads((ASSETS / f"{tag}.json").read_text())
    counts = np.array(results["test"]["confusion"])
    mistakes = counts * (1 - np.eye(len(counts), dtype=int))
    figure, axes = plots.plot(6.4, 5.4)
    axes.grid(visible=False)
    axes.pcolormesh(mistakes, cmap=plots.WHITE_TO_CONTRAST, edgecolors="white", linewidth=1.5)
    for (row, column), count in np.ndenumerate(counts):
        if count:
            colour, weight = (plots.ACCENT, "bold") if row == column else (plots.INK, "normal")
            axes.text(
                column + 0.5,
                row + 0.5,
                str(count),
                color=colour,
                weight=weight,
                ha="center",
                va="center",
                size=8,
            )
    places = np.arange(len(counts)) + 0.5
    axes.set_xticks(places, CIFAR10_CLASSES, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(places, CIFAR10_CLASSES)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.invert_yaxis()
    axes.set(xlabel="predicted", ylabel="true")
    plots.save(figure, PICTURES / f"{tag}_confusion.svg")


def draw_reliability(tag: str, measured: dict[str, Any]) -> None:
    """Accuracy against confidence, and how many answers are that sure; both temperatures."""
    figure = Figure(figsize=(7.2, 4.0), layout="constrained")
    upper, lower = figure.subplots(2, 2, sharex=True, sharey="row", height_ratios=[4, 1])
    for column, (key, name) in enumerate(
        [("before_temperature", "unscaled"), ("after_temperature", "as shipped")]
    ):
        curve = measured[key]
        upper[column].set_title(f"{name}: ECE {curve['ece']:.1%}")
        _draw_curve(upper[column], curve["bins"])
        lower[column].bar(
            [each["from"] for each in curve["bins"]],
            [each["images"] / measured["images"] for each in curve["bins"]],
            width=1 / CALIBRATION_BINS,
            align="edge",
            color=plots.GREY,
            edgecolor="white",
        )
        lower[column].set(xlabel="confidence", xlim=(0, 1))
    upper[0].set(ylabel="accuracy", ylim=(0, 1))
    lower[0].set(ylabel="images", ylim=(0, 1))
    for axes in (*upper, *lower):
        axes.xaxis.set_major_formatter("{x:.0%}")
        axes.yaxis.set_major_formatter("{x:.0%}")
    plots.save(figure, PICTURES / f"{tag}_reliability.svg")


def _draw_curve(axes: Axes, bins: list[dict[str, Any]]) -> None:
    filled = [each for each in bins if each["images"]]
    left = np.array([each["from"] for each in filled])
    accuracy = [each["accuracy"] for each in filled]
    confidence = [each["confidence"] for each in filled]
    width = 1 / CALIBRATION_BINS
    axes.bar(left, accuracy, width, align="edge", color=plots.ACCENT, edgecolor="white")
    axes.hlines(
        confidence, left, left + width, color=plots.CONTRAST, linewidth=2, label="mean confidence"
    )
    axes.plot([0, 1], [0, 1], color=plots.GREY, linestyle="--", linewidth=0.8)
    axes.legend(loc="upper left")


def draw_mistakes(tag: str, measured: dict[str, Any], test: Split) -> None:
    """The mistakes of which the classifier was surest."""
    rows = {name: row for row, name in enumerate(test.filenames)}
    figure = Figure(figsize=(7.2, 3.9), layout="constrained")
    for axes, mistake in zip(
        figure.subplots(2, MISTAKES // 2).flat, measured["most_confident_mistakes"], strict=True
    ):
        axes.imshow(test.images[rows[mistake["filename"]]].transpose(1, 2, 0), interpolation="none")
        axes.set_axis_off()
        axes.set_title(
            f"{mistake['predicted']} {mistake['probability']:.2%}\ntrue: {mistake['true']}",
            size=9,
            weight="normal",
        )
    plots.save(figure, PICTURES / f"{tag}_mistakes.svg")


def main(tags: list[str]) -> None:
    """Measure and draw each of the bundled weights, or those named."""
    test = CIFAR10().test
    for weights in list_weights():
        if weights.bundled and (not tags or weights.tag in tags):
            measured = measure(weights.tag, ASSETS / weights.bundled, test)
            RESULTS.mkdir(parents=True, exist_ok=True)
            (RESULTS / f"{weights.tag}.json").write_text(json.dumps(measured, indent=2) + "\n")
            draw_confusion(weights.tag)
            draw_reliability(weights.tag, measured)
            draw_mistakes(weights.tag, measured, test)


if __name__ == "__main__":
    main(sys.argv[1:])
