"""Explanations as pictures that a person can read."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL.Image import Image as Picture
from torch import Tensor, nn

from .. import pictures
from ..classifier import Classifier
from ..images import ImageLike, to_batch
from ..model import AllCNN
from .activations import TopActivations
from .signal import FeatureMap, Method, Target, class_names, class_number, explain, layers

_METHODS: dict[Method, str] = {
    "guided": "guided backpropagation",
    "deconvnet": "deconvnet",
    "gradient": "gradient",
}
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
    """One image, what the network sees of it, what in it drives the network, what it says.

    Args:
        classifier: The network with its class names.
        image: One image of any kind that the classifier takes.
        target: What to explain, as in `explain`.
        method: How, as in `explain`.
        title: The line above; what is explained if empty.

    Raises:
        ImageError: `image` is not an image.
        UnknownNameError: There is no such target or method.
    """
    model, batch = classifier.model, to_batch(image)
    prediction = classifier([batch[0]])[0]
    target = prediction.index if target is None else target
    signal = _array(explain(model, batch, target, method=method)[0])
    whitened = _array(model.preprocess(batch.to(model.classifier.weight.device))[0])
    pixels, strongest, added = batch[0].numpy(), np.abs(signal).max(axis=0), signal.sum(axis=0)
    panels = [
        ("image", pixels),
        ("whitened", pictures.in_colour(whitened, 3 * float(whitened.std()) or 1.0)),
        ("signal", _in_colour(signal)),
        ("red above 0, blue below", pictures.in_two_colours(added, pictures.reach(added))),
        ("where it is strong", pictures.highlighted(pixels, strongest, pictures.reach(strongest))),
    ]
    row = [_captioned(caption, pictures.enlarge(panel, _PANEL)) for caption, panel in panels]
    row.append(_captioned("prediction", pictures.bars(prediction.top, _PANEL)))
    subject = _name(model, target)
    return _titled(
        title or subject,
        f"what drives {subject}: {_METHODS[method]}",
        pictures.beside(row, _GAP),
    )


def _name(model: AllCNN, target: int | str | FeatureMap) -> str:
    """What to call a target."""
    if isinstance(target, FeatureMap):
        which = "its strongest map" if target.channel is None else f"map {target.channel}"
        return f"{target.layer}, {which}"
    return target if isinstance(target, str) else class_names(model)[class_number(model, target)]


def draw_filters(model: AllCNN) -> Picture:
    """The first convolution's filters with their numbers."""
    name, convolution = next(
        (name, layer) for name, layer in layers(model).items() if isinstance(layer, nn.Conv2d)
    )
    filters = _array(convolution.weight)
    cells = [
        _captioned(str(number), pictures.enlarge(_in_colour(filter_), _CELL))
        for number, filter_ in enumerate(filters)
    ]
    return _titled(
        f"{name}: its {len(filters)} filters",
        "They act on whitened images. Grey is zero; each is shown at its own full contrast.",
        pictures.contact_sheet(cells, _FILTERS_IN_A_ROW, gap=12),
    )


def draw_layer(
    model: AllCNN, images: npt.NDArray[np.uint8] | Tensor, top: TopActivations, *, maps: int = 12
) -> Picture:
    """The most active feature maps of a layer: which patches activate each most, what in them does.

    A patch is the receptive field of the activation, moved inside the image where it reaches over
    the border. What drives it is found by guided backpropagation from that activation.

    Args:
        model: The network.
        images: uint8 (N, 3, 32, 32), those that `top` was found among.
        top: The strongest activations of one layer, from `top_activations`.
        maps: How many feature maps to show.
    """
    names = class_names(model) if top.layer == "classifier" else ()
    strongest = top.values[:, 0].argsort(descending=True)[:maps].tolist()
    rows = []
    for channel in strongest:
        patches, signals = _patches(model, images, top, channel)
        name = names[channel] if names else f"map {channel}"
        rows.append((pictures.text(name, 15, width=_LABEL), _strip(patches), _strip(signals)))
    words = ("", "where they are most active", "what drives them there")
    heads = [pictures.text(head, 15, pictures.MUTED) for head in words]
    side = min(top.field.size, images.shape[-1])
    return _titled(
        f"{top.layer}: what its feature maps look for",
        f"{len(strongest)} of {len(top.values)} maps, the most active first."
        f" An activation depends on {side}x{side} pixels.",
        pictures.stacked([_line(row, rows[0][1].width) for row in (heads, *rows)], gap=10),
    )


def _patches(
    model: AllCNN, images: npt.NDArray[np.uint8] | Tensor, top: TopActivations, channel: int
) -> tuple[list[pictures.Pixels], list[pictures.Pixels]]:
    """What activates a feature map most, and the signals of it, each cut to the receptive field."""
    batch = to_batch(images[top.images[channel].numpy()])
    signals = _array(explain(model, batch, FeatureMap(top.layer, channel)))
    windows = [
        tuple(top.field.window(place, images.shape[-1]) for place in position)
        for position in top.positions[channel].tolist()
    ]
    pixels = zip(batch.numpy(), signals, windows, strict=True)
    cut = [(image[:, y, x], signal[:, y, x]) for image, signal, (y, x) in pixels]
    return [patch for patch, _ in cut], [_in_colour(signal) for _, signal in cut]


def _in_colour(values: pictures.Values) -> pictures.Pixels:
    """Signed values at their own full contrast."""
    return pictures.in_colour(values, pictures.reach(values))


def _strip(patches: Sequence[pictures.Pixels]) -> Picture:
    """Patches of one size, each of their pixels as large as every other."""
    side = patches[0].shape[-1]
    width = side * max(_CELL // side, 1)
    return pictures.beside([pictures.enlarge(patch, width) for patch in patches], gap=4)


def _line(row: Sequence[Picture], width: int) -> Picture:
    """One line of a layer's sheet: a name, and two strips (or their headings) of this width."""
    widths = (_LABEL, width, width)
    padded = [pictures.padded(each, wide) for each, wide in zip(row, widths, strict=True)]
    return pictures.beside(padded, gap=20, centred=True)


def _captioned(caption: str, picture: Picture) -> Picture:
    return pictures.stacked([pictures.text(caption, 15, pictures.MUTED), picture], gap=4)


def _titled(title: str, subtitle: str, body: Picture) -> Picture:
    heading = pictures.text(title, 22, width=body.width)
    below = pictures.text(subtitle, 15, pictures.MUTED, width=body.width)
    return pictures.framed(pictures.stacked([pictures.stacked([heading, below], 2), body], gap=18))


def _array(values: Tensor) -> Any:
    return values.detach().float().cpu().numpy()
