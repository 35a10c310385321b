"""Measures weights that come with the package, as stored, on the test images of their data set.

    ALLCNN_ZOO_DATA=DIR python benchmarks/weights.py [NAME ...]    # all of them by default

Writes benchmarks/results/weights/NAME.json, from which docs/generate.py makes model cards.
"""

import hashlib
import sys
from typing import Any

import numpy as np
import numpy.typing as npt
from measuring import RESULTS, circumstances, write_json

import allcnn_zoo
from allcnn_zoo import Classifier
from allcnn_zoo.cifar import Split

BINS = 15  # of confidence, of equal width
MISTAKES = 10  # shown on a card
SURE = 0.9


def measure(weights: allcnn_zoo.Weights) -> dict[str, Any]:
    """Figures of one set of weights on the test images, one center view each."""
    path = allcnn_zoo.download(weights)
    test = test_images(weights)
    classifier = Classifier.from_pretrained(weights.name, engine="torch")
    probabilities = classifier.predict_proba(test.images, progress=True)
    mirrored = classifier.predict_proba(np.ascontiguousarray(test.images[..., ::-1]), progress=True)
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    correct = predicted == test.labels
    classes = classifier.classes
    confusion = np.zeros((len(classes), len(classes)), int)
    np.add.at(confusion, (test.labels, predicted), 1)
    bins = reliability(confidence, correct)
    gaps = [each["images"] * abs(each["confidence"] - each["accuracy"]) for each in bins]
    wrong = np.flatnonzero(~correct)
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:MISTAKES]
    return {
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "bytes": path.stat().st_size,
        "images": len(correct),
        "accuracy": float(correct.mean()),
        "flip_averaged_accuracy": float(
            ((probabilities + mirrored).argmax(axis=1) == test.labels).mean()
        ),
        "nll": float(-np.log(probabilities[np.arange(len(correct)), test.labels]).mean()),
        "ece": sum(gaps) / len(correct),
        "bins": bins,
        "confusion": confusion.tolist() if len(classes) <= 20 else None,
        "confused_most": confused_most(confusion, classes),
        "mistakes": len(wrong),
        "mistakes_when_sure": int((confidence[wrong] > SURE).sum()),
        "answers_when_sure": int((confidence > SURE).sum()),
        "most_confident_mistakes": [
            {
                "row": int(row),
                "true": classes[test.labels[row]],
                "predicted": classes[predicted[row]],
                "probability": round(float(confidence[row]), 4),
            }
            for row in worst
        ],
        **circumstances("torch", "numpy"),
    }


def test_images(weights: allcnn_zoo.Weights) -> Split:
    """The test images of the data set that these weights classify."""
    name = weights.dataset.replace("-", "")
    split: Split = getattr(allcnn_zoo, name)().test
    return split


def reliability(
    confidence: npt.NDArray[np.float32], correct: npt.NDArray[np.bool_]
) -> list[dict[str, Any]]:
    """How often answers of that confidence are right, bin by bin; empty bins are left out."""
    numbers = np.minimum((confidence * BINS).astype(int), BINS - 1)
    return [
        {
            "from": number / BINS,
            "images": int((numbers == number).sum()),
            "confidence": float(confidence[numbers == number].mean(dtype=np.float64)),
            "accuracy": float(correct[numbers == number].mean()),
        }
        for number in np.unique(numbers)
    ]


def confused_most(
    confusion: npt.NDArray[np.int64], classes: tuple[str, ...]
) -> list[tuple[str, str, int]]:
    """The ten most frequent mistakes: true class, predicted class, images."""
    mistakes = confusion - np.diag(np.diag(confusion))
    largest = np.argsort(-mistakes, axis=None, kind="stable")[:10]
    return [
        (classes[true], classes[predicted], int(mistakes[true, predicted]))
        for true, predicted in zip(*np.unravel_index(largest, mistakes.shape), strict=True)
    ]


def main(names: list[str]) -> None:
    """Measure them one after another."""
    for weights in allcnn_zoo.list_weights():
        if weights.bundled and (not names or {weights.name, weights.tag} & {*names}):
            report = measure(weights)
            write_json(RESULTS / "weights" / f"{weights.name}.json", report)
            print(f"{weights.name}: {report['accuracy']:.2%} top-1, ECE {report['ece']:.2%}")


if __name__ == "__main__":
    main(sys.argv[1:])
