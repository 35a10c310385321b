"""Pictures of what a network sees and says: small pieces, and ways to put them together.

Pixels are arrays (3, height, width), as in the rest of the package; pictures are Pillow images.
"""

import html
import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from PIL.Image import Image as Picture

Pixels = npt.NDArray[np.uint8]  #: (3, height, width), 0...255
Values = npt.NDArray[np.float32]

PAPER, INK, MUTED, FAINT = "#ffffff", "#1f2328", "#59636e", "#e6eaef"
ACCENT = "#0969da"
# Two ends that colour-blind people tell apart as well (ColorBrewer's RdBu), and Okabe and Ito's
# vermilion, which stands out on grey for everybody.
NEGATIVE, POSITIVE = (33, 102, 172), (178, 24, 43)
HIGHLIGHT = (213, 94, 0)


def enlarge(pixels: Pixels, width: int) -> Picture:
    """Pixels as a picture of `width`, every pixel a square that can still be seen."""
    _, rows, columns = pixels.shape
    picture = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    return picture.resize((width, width * rows // columns), Image.Resampling.NEAREST)


def reach(values: Values) -> float:
    """What to show as full contrast: all but the largest hundredth of the values are below it."""
    return float(np.quantile(np.abs(values), 0.99)) or 1.0


def in_colour(values: Values, full: float) -> Pixels:
    """Signed values (3, height, width) as colours: grey is zero, `full` is full contrast."""
    return _as_pixels(127.5 + 127.5 * values / full)


def in_two_colours(values: Values, full: float) -> Pixels:
    """Signed values (height, width): blue below zero, white at zero, red above."""
    strength = (values / full).clip(-1, 1)[None]
    ends = np.where(strength < 0, _column(NEGATIVE), _column(POSITIVE))
    return _as_pixels(255 + np.abs(strength) * (ends - 255))


def highlighted(pixels: Pixels, values: Values, full: float) -> Pixels:
    """The image in pale grey, and in colour where the values (height, width) are strong."""
    grey = 110 + 0.55 * pixels.mean(axis=0, keepdims=True)
    strength = (np.abs(values) / full).clip(0, 1)[None]
    return _as_pixels(grey + strength * (_column(HIGHLIGHT) - grey))


def _as_pixels(values: npt.NDArray[np.floating]) -> Pixels:
    pixels: Pixels = np.rint(values).clip(0, 255).astype(np.uint8)
    return pixels


def _column(colour: tuple[int, int, int]) -> npt.NDArray[np.int64]:
    return np.array(colour).reshape(3, 1, 1)


def text(words: str, size: int = 16, fill: str = INK, width: int | None = None) -> Picture:
    """One line of text, as high for any words, and cut with an ellipsis if wider than `width`."""
    font = ImageFont.load_default(size)
    while width is not None and font.getlength(words) > width:
        words = words.rstrip("…")[:-1] + "…"
    picture = Image.new("RGB", (round(font.getlength(words)) + 1, round(size * 1.35)), PAPER)
    ImageDraw.Draw(picture).text((0, size), words, fill=fill, font=font, anchor="ls")
    return picture


def bars(rows: Sequence[tuple[str, float]], width: int) -> Picture:
    """Names with probabilities, 0...1, a bar below each."""
    return stacked([_bar(name, probability, width) for name, probability in rows], gap=8)


def _bar(name: str, probability: float, width: int) -> Picture:
    picture = Image.new("RGB", (width, 32), PAPER)
    number = text(f"{probability:.1%}", 16, MUTED)
    picture.paste(text(name, 16, width=width - number.width - 8))
    picture.paste(number, (width - number.width, 0))
    draw = ImageDraw.Draw(picture)
    draw.rounded_rectangle((0, 24, width - 1, 31), 4, fill=FAINT)
    if (end := round(width * probability)) > 0:
        draw.rounded_rectangle((0, 24, end - 1, 31), min(4, end // 2), fill=ACCENT)
    return picture


def beside(pictures: Sequence[Picture], gap: int = 0, *, centred: bool = False) -> Picture:
    """Pictures in a row, their tops (or their middles) in line."""
    width = sum(picture.width for picture in pictures) + gap * (len(pictures) - 1)
    height = max(picture.height for picture in pictures)
    canvas = Image.new("RGB", (width, height), PAPER)
    left = 0
    for picture in pictures:
        canvas.paste(picture, (left, (height - picture.height) // 2 if centred else 0))
        left += picture.width + gap
    return canvas


def stacked(pictures: Sequence[Picture], gap: int = 0) -> Picture:
    """Pictures below one another, their left edges in line."""
    height = sum(picture.height for picture in pictures) + gap * (len(pictures) - 1)
    canvas = Image.new("RGB", (max(picture.width for picture in pictures), height), PAPER)
    top = 0
    for picture in pictures:
        canvas.paste(picture, (0, top))
        top += picture.height + gap
    return canvas


def contact_sheet(pictures: Sequence[Picture], columns: int, gap: int) -> Picture:
    """Pictures of one size in rows of `columns`."""
    rows = [pictures[start : start + columns] for start in range(0, len(pictures), columns)]
    return stacked([beside(row, gap) for row in rows], gap)


def padded(picture: Picture, width: int) -> Picture:
    """A picture with white paper to its right, up to `width`."""
    canvas = Image.new("RGB", (width, picture.height), PAPER)
    canvas.paste(picture)
    return canvas


def framed(picture: Picture, margin: int = 24) -> Picture:
    """A picture with white paper around it."""
    size = (picture.width + 2 * margin, picture.height + 2 * margin)
    canvas = Image.new("RGB", size, PAPER)
    canvas.paste(picture, (margin, margin))
    return canvas


def png(picture: Picture) -> bytes:
    """The picture as the bytes of a PNG file."""
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return file.getvalue()


def html_bars(rows: Sequence[tuple[str, float]]) -> str:
    """An HTML table of names and probabilities, 0...1, with a bar for each.

    Without its styles, which some viewers strip, it is still a table that can be read.
    """
    bar = f"height:.7em;min-width:2px;border-radius:.2em;background:{ACCENT}"
    lines = (
        f'<tr><td style="text-align:left">{html.escape(name)}</td>'
        f'<td style="width:12em"><div style="{bar};width:{probability:.1%}"></div></td>'
        f"<td>{probability:.1%}</td></tr>"
        for name, probability in rows
    )
    return f"<table>{''.join(lines)}</table>"
