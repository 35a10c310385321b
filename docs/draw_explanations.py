"""Draws the pictures of docs/explain.md, with the weights that come with the package.

python docs/draw_explanations.py [DATA]    # the folder that holds cifar-10-batches-py
"""

import sys
from pathlib import Path

from allcnn_zoo import CIFAR10, Classifier
from allcnn_zoo.explanation import (
    METHODS,
    draw_explanation,
    draw_filters,
    draw_layer,
    top_activations,
)
from allcnn_zoo.explanation.drawing import png
from allcnn_zoo.storage import write_atomically

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "pictures"
IMAGES = 2000  # of the test images; enough for every feature map to find what it likes


def main(data: str | None) -> None:
    """Write docs/pictures/explain_*.png."""
    classifier = Classifier.from_pretrained("cifar10_best")
    image = ROOT / "examples" / "images" / "horse.png"
    for method in METHODS:
        picture = draw_explanation(classifier, image, method=method, title="horse.png")
        write_atomically(PICTURES / f"explain_{method}.png", png(picture))
    write_atomically(PICTURES / "explain_filters.png", png(draw_filters(classifier.model)))
    images = CIFAR10(data).test.images[:IMAGES]
    layer = top_activations(classifier.model, images)["conv5"]
    picture = draw_layer(classifier.model, images, layer, maps=6)
    write_atomically(PICTURES / "explain_conv5.png", png(picture))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
