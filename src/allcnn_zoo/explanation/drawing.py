"""Drawings of attributions, activations and filters.

Pixels are arrays (3, height, width), as in the rest of the package; pictures are Pillow images.
"""

import io
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont, ImageOps
from PIL.Image import Image as Picture
from torch import Tensor

from ..classifier import Classifier
from ..images import ImageLike, to_batch
from ..model import AllCNN
from .activations import TopActivations
from .attribution import FeatureMap, Method, Target, class_names, class_number, explain

Pixels = npt.NDArray[np.uint8]  #: (3, height, width), 0...255
Values = npt.NDArray[np.float32]

PAPER, INK, MUTED, FAINT, ACCENT = "#ffffff", "#1f2328", "#59636e", "#e6eaef", "#0969da"
# Safe for color-blind readers: ColorBrewer's RdBu, and Okabe and Ito's vermilion on gray.
NEGATIVE, POSITIVE, HIGHLIGHT = (33, 102, 172), (178, 24, 43), (213, 94, 0)

_PANEL, _GAP = 192, 16  # of an explanation
_CELL, _FILTERS_IN_A_ROW = 65, 12  # of a contact sheet
_LABEL = 84  # for the name of a feature map


def draw_explanation(
    classifier: Classifier,
    image: ImageLike,
    target: Target = None,
    *,
    method: Method = "guided",
    title: str = "",
) -> Picture:
    """Draw an image, the network's whitened input, the attribution and the prediction.

    Args:
        classifier: The network with its class names.
        image: One image of any kind that the classifier takes.
        target: What to explain, as in `explain`.
        method: How, as in `explain`.
        title: The line above; by default, what is explained.

    Raises:
        ImageError: `image` is not an image.
        UnknownNameError: There is no such target or method.
    """
    model, batch = classifier.model, to_batch(image)
    prediction = classifier([batch[0]])[0]
    target = prediction.index if target is None else target
    attribution = _array(explain(model, batch, target, method=method)[0])
    whitened = _array(model.preprocess(batch.to(model.classifier.weight.device))[0])
    pixels, strongest = batch[0].numpy(), np.abs(attribution).max(axis=0)
    panels = {
        "image": pixels,
        "whitened": in_color(whitened, 3 * float(whitened.std()) or 1.0),
        "attribution": in_color(attribution),
        "red above 0, blue below": in_two_colors(attribution.sum(axis=0)),
        "where it is large": highlighted(pixels, strongest),
    }
    row = [_captioned(caption, enlarge(panel, _PANEL)) for caption, panel in panels.items()]
    row.append(_captioned("prediction", bars(prediction.top, _PANEL)))
    if isinstance(target, FeatureMap):
        which = "its strongest map" if target.channel is None else f"map {target.channel}"
        subject = f"{target.layer}, {which}"
    else:
        subject = class_names(model)[class_number(model, target)]
    by = "guided backpropagation" if method == "guided" else method
    return _titled(title or subject, f"what drives {subject}: {by}", grid([row], _GAP))


def draw_filters(model: AllCNN) -> Picture:
    """Draw the first convolution's filters with their numbers."""
    filters = _array(model.features.conv1.weight)  # type: ignore[union-attr, arg-type]
    pictures = (enlarge(in_color(values), _CELL) for values in filters)
    cells = [_captioned(str(number), picture) for number, picture in enumerate(pictures)]
    starts = range(0, len(cells), _FILTERS_IN_A_ROW)
    return _titled(
        f"conv1: its {len(filters)} filters",
        "They act on whitened images. Gray is zero; each is shown at its own full contrast.",
        grid([cells[start : start + _FILTERS_IN_A_ROW] for start in starts], gap=12),
    )


def draw_layer(
    model: AllCNN, images: npt.NDArray[np.uint8] | Tensor, top: TopActivations, *, maps: int = 12
) -> Picture:
    """Draw the most active feature maps of a layer with the patches that activate each most.

    A patch is the receptive field of the activation, moved inside the image at the border. Below
    it is the attribution of that activation, by guided backpropagation.

    Args:
        model: The network.
        images: uint8 (N, 3, 32, 32), the images in which `top` was found.
        top: The strongest activations of one layer, from `top_activations`.
        maps: How many feature maps to show.
    """
    names = class_names(model) if top.layer == "classifier" else ()
    strongest = top.values[:, 0].argsort(descending=True)[:maps].tolist()
    heads = ("", "where they are most active", "what drives them there")
    rows = [[text(head, 15, MUTED) for head in heads]]
    for channel in strongest:
        name = names[channel] if names else f"map {channel}"
        rows.append([text(name, 15, width=_LABEL), *_strips(model, images, top, channel)])
    side = min(top.field.size, images.shape[-1])
    return _titled(
        f"{top.layer}: what its feature maps respond to",
        f"{len(strongest)} of {len(top.values)} maps, the most active first."
        f" An activation depends on {side}x{side} pixels.",
        grid(rows, gap=20, gap_below=10, centered=True),
    )


def _strips(
    model: AllCNN, images: npt.NDArray[np.uint8] | Tensor, top: TopActivations, channel: int
) -> tuple[Picture, Picture]:
    """Draw two rows: the patches that activate a feature map most, and their attributions."""
    batch = to_batch(images[top.images[channel].numpy()])
    attributions = _array(explain(model, batch, FeatureMap(top.layer, channel)))
    width = min(top.field.size, images.shape[-1])
    width *= max(_CELL // width, 1)  # every pixel a square of the same size
    patches, drivers = [], []
    for image, attribution, position in zip(
        batch.numpy(), attributions, top.positions[channel].tolist(), strict=True
    ):
        y, x = (top.field.window(place, images.shape[-1]) for place in position)
        patches.append(enlarge(image[:, y, x], width))
        drivers.append(enlarge(in_color(attribution[:, y, x]), width))
    return grid([patches], gap=4), grid([drivers], gap=4)


def _captioned(caption: str, picture: Picture) -> Picture:
    return grid([[text(caption, 15, MUTED)], [picture]], gap=4)


def _titled(title: str, subtitle: str, body: Picture) -> Picture:
    heading = text(title, 22, width=body.width)
    below = text(subtitle, 15, MUTED, width=body.width)
    sheet = grid([[grid([[heading], [below]], gap=2)], [body]], gap=18)
    return ImageOps.expand(sheet, 24, PAPER)


def _array(values: Tensor) -> Any:
    return values.detach().float().cpu().numpy()


# Values as pixels.


def full_contrast(values: Values) -> float:
    """The value to show at full contrast: 99 % of the magnitudes are below it."""
    return float(np.quantile(np.abs(values), 0.99)) or 1.0


def in_color(values: Values, full: float | None = None) -> Pixels:
    """Signed values (3, height, width) as colors: gray is zero, `full` is full contrast."""
    return _as_pixels(127.5 + 127.5 * values / (full or full_contrast(values)))


def in_two_colors(values: Values) -> Pixels:
    """Signed values (height, width): blue below zero, white at zero, red above."""
    strength = (values / full_contrast(values)).clip(-1, 1)[None]
    ends = np.where(strength < 0, _column(NEGATIVE), _column(POSITIVE))
    return _as_pixels(255 + np.abs(strength) * (ends - 255))


def highlighted(pixels: Pixels, values: Values) -> Pixels:
    """The image in pale gray, and in color where the values (height, width) are large."""
    gray = 110 + 0.55 * pixels.mean(axis=0, keepdims=True)
    strength = (np.abs(values) / full_contrast(values)).clip(0, 1)[None]
    return _as_pixels(gray + strength * (_column(HIGHLIGHT) - gray))


def _as_pixels(values: npt.NDArray[np.floating]) -> Pixels:
    pixels: Pixels = np.rint(values).clip(0, 255).astype(np.uint8)
    return pixels


def _column(color: tuple[int, int, int]) -> npt.NDArray[np.int64]:
    return np.array(color).reshape(3, 1, 1)


# Pictures.


def enlarge(pixels: Pixels, width: int) -> Picture:
    """Pixels as a picture of `width`, in which every pixel is a square."""
    _, rows, columns = pixels.shape
    picture = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    return picture.resize((width, width * rows // columns), Image.Resampling.NEAREST)


def text(words: str, size: int = 16, fill: str = INK, width: int | None = None) -> Picture:
    """One line of text, of the same height for any words, cut with an ellipsis at `width`."""
    font = ImageFont.load_default(size)
    while width is not None and font.getlength(words) > width:
        words = words.rstrip("…")[:-1] + "…"
    picture = Image.new("RGB", (round(font.getlength(words)) + 1, round(size * 1.35)), PAPER)
    ImageDraw.Draw(picture).text((0, size), words, fill=fill, font=font, anchor="ls")
    return picture


def bars(rows: Sequence[tuple[str, float]], width: int) -> Picture:
    """Names with probabilities, 0...1, and a bar below each."""
    pictures = []
    for name, probability in rows:
        picture = Image.new("RGB", (width, 32), PAPER)
        number = text(f"{probability:.1%}", 16, MUTED)
        picture.paste(text(name, 16, width=width - number.width - 8))
        picture.paste(number, (width - number.width, 0))
        draw = ImageDraw.Draw(picture)
        draw.rounded_rectangle((0, 24, width - 1, 31), 4, fill=FAINT)
        if (end := round(width * probability)) > 0:
            draw.rounded_rectangle((0, 24, end - 1, 31), min(4, end // 2), fill=ACCENT)
        pictures.append([picture])
    return grid(pictures, gap=8)


def grid(
    rows: Sequence[Sequence[Picture]],
    gap: int,
    *,
    gap_below: int | None = None,
    centered: bool = False,
) -> Picture:
    """Pictures in rows and columns, each column as wide as its widest picture.

    Rows may be shorter than the first. `gap` is in pixels, and holds between rows, too, unless
    `gap_below` is given. The tops of a row are in line, or the middles if `centered`.
    """
    gap_below = gap if gap_below is None else gap_below
    columns = itertools.zip_longest(*rows)
    widths = [max(picture.width for picture in column if picture) for column in columns]
    heights = [max(picture.height for picture in row) for row in rows]
    width = sum(widths) + gap * (len(widths) - 1)
    height = sum(heights) + gap_below * (len(heights) - 1)
    canvas, top = Image.new("RGB", (width, height), PAPER), 0
    for row, height in zip(rows, heights, strict=True):
        left = 0
        for picture, width in zip(row, widths, strict=False):
            canvas.paste(picture, (left, top + (height - picture.height) // 2 * centered))
            left += width + gap
        top += height + gap_below
    return canvas


def png(picture: Picture) -> bytes:
    """The picture as the bytes of a PNG file."""
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return file.getvalue()
