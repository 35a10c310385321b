"""Draws the README's picture: ten test images, as whitened, and what the network says of them.

python docs/draw_what_it_sees.py [WEIGHTS]
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from allcnn_zoo import Classifier
from allcnn_zoo.images import to_batch

ROOT = Path(__file__).parents[1]
CELL, GAP, TEXT = 112, 12, 58
INK, FAINT, ACCENT = "#1f2328", "#d8dee4", "#0969da"


def enlarge(pixels: np.ndarray) -> Image.Image:
    """uint8 (32, 32, 3) as a picture of CELL pixels, every pixel still visible."""
    return Image.fromarray(pixels).resize((CELL, CELL), Image.Resampling.NEAREST)


def show_whitened(values: np.ndarray) -> np.ndarray:
    """Whitened float (3, 32, 32) as colours: grey is zero, three deviations are full contrast."""
    scaled = 127.5 + values * 127.5 / (3 * values.std())
    return scaled.clip(0, 255).astype(np.uint8).transpose(1, 2, 0)


def main(weights: str) -> None:
    """Write docs/pictures/what_it_sees.png."""
    paths = sorted((ROOT / "examples" / "images").glob("*.png"))
    classifier = Classifier.from_pretrained(weights)
    batch = to_batch(paths)
    whitened = classifier.model.preprocess(batch).numpy()
    predictions = classifier(paths)

    step = CELL + GAP
    canvas = Image.new("RGB", (step * len(paths) + GAP, 2 * step + TEXT), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=14)
    for column, prediction in enumerate(predictions):
        left = GAP + column * step
        canvas.paste(enlarge(batch[column].numpy().transpose(1, 2, 0)), (left, GAP))
        canvas.paste(enlarge(show_whitened(whitened[column])), (left, GAP + step))
        top = 2 * step + GAP
        bar = (left, top + 24, left + CELL, top + 30)
        draw.text((left, top), prediction.label, fill=INK, font=font)
        percent = f"{prediction.probability:.0%}"
        draw.text((left + CELL, top), percent, fill=ACCENT, font=font, anchor="ra")
        draw.rounded_rectangle(bar, 3, fill=FAINT)
        end = left + max(6, round(CELL * prediction.probability))
        draw.rounded_rectangle((*bar[:2], end, bar[3]), 3, fill=ACCENT)
    canvas.save(ROOT / "docs" / "pictures" / "what_it_sees.png", optimize=True)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "allcnn_c")
