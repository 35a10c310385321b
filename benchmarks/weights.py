"""Measures how far the confidence of bundled weights can be trusted, on the test images.

    ALLCNN_ZOO_DATA=DIR python benchmarks/weights.py [NAME ...]    # all of them by default

Writes benchmarks/results/weights/NAME.json: reliability and the most confident mistakes, for model
cards. Accuracy, likelihood and confusions are in the weights' own header, from bundle.py.
"""

import hashlib
import sys
from typing import Any

import numpy as np
import numpy.typing as npt
from measuring import RESULTS, circumstances, write_json

import allcnn_zoo
from allcnn_zoo import Classifier, cifar
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
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    correct = predicted == test.labels
    wrong = np.flatnonzero(~correct)
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:MISTAKES]
    names = classifier.classes
    return {
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "images": len(correct),
        "accuracy": float(correct.mean()),
        "bins": reliability(confidence, correct),
        "answers_when_sure": int((confidence > SURE).sum()),
        "mistakes_when_sure": int((confidence[wrong] > SURE).sum()),
        "most_confident_mistakes": [
            {
                "row": int(row),
                "true": names[test.labels[row]],
                "predicted": names[predicted[row]],
                "probability": round(float(confidence[row]), 4),
            }
            for row in worst
        ],
        **circumstances("torch", "numpy"),
    }


def test_images(weights: allcnn_zoo.Weights) -> Split:
    """The test images of the data set that these weights classify."""
    split: Split = getattr(cifar, weights.dataset.replace("-", ""))().test
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


def main(names: list[str]) -> None:
    """Measure them one after another."""
    for weights in allcnn_zoo.list_weights():
        if weights.bundled and (not names or {weights.name, weights.tag} & {*names}):
            report = measure(weights)
            write_json(RESULTS / "weights" / f"{weights.name}.json", report)
            print(f"{weights.name}: {report['accuracy']:.2%}")


if __name__ == "__main__":
    main(sys.argv[1:])
