"""Which images, and where in them, each feature map answers to most."""

import dataclasses
import sys
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.hub import tqdm  # type: ignore[attr-defined]  # or its stand-in, if not installed

from ..errors import ImageError
from ..images import to_batch
from ..model import AllCNN
from .signal import layers, private_copy, run


@dataclasses.dataclass(frozen=True)
class ReceptiveField:
    """What part of the (whitened) image an activation depends on: a square.

    Attributes:
        size: Its side in pixels, the padding around the image included.
        step: How far it moves from one position of the feature map to the next.
        start: Row and column where that of position (0, 0) begins; not positive.
    """

    size: int = 1
    step: int = 1
    start: int = 0

    def through(self, kernel: int, stride: int, padding: int) -> "ReceptiveField":
        """That of a convolution or pooling on top."""
        return ReceptiveField(
            self.size + (kernel - 1) * self.step,
            self.step * stride,
            self.start - padding * self.step,
        )

    def window(self, position: int, length: int) -> slice:
        """The rows (or columns) that a row (or column) of the feature map depends on.

        Of its whole size even at the border, where it is moved inside the `length` of the image.
        """
        size = min(self.size, length)
        start = min(max(self.start + self.step * position, 0), length - size)
        return slice(start, start + size)


@dataclasses.dataclass(frozen=True)
class TopActivations:
    """The images that activate each feature map of a layer most, the best first.

    Attributes:
        layer: Name of the layer.
        field: What an activation of it depends on.
        values: Largest activation in each image, float32 (channels, k).
        images: Number of the image, int64 (channels, k).
        positions: Row and column of the activation in the feature map, int64 (channels, k, 2).
    """

    layer: str
    field: ReceptiveField
    values: Tensor
    images: Tensor
    positions: Tensor


def receptive_fields(model: AllCNN) -> dict[str, ReceptiveField]:
    """The receptive field of each layer, by the layer's name."""
    fields, field = {}, ReceptiveField()
    for name, layer in layers(model).items():
        if isinstance(layer, (nn.Conv2d, nn.MaxPool2d)):
            field = field.through(*map(_side, (layer.kernel_size, layer.stride, layer.padding)))
        fields[name] = field
    return fields


def _side(value: object) -> int:
    return value[0] if isinstance(value, tuple) else value  # type: ignore[return-value]


def top_activations(
    model: AllCNN,
    images: npt.NDArray[np.uint8] | Tensor,
    *,
    k: int = 8,
    batch_size: int = 64,
    progress: bool = False,
) -> dict[str, TopActivations]:
    """The images of a data set that activate each feature map of each convolution most.

    Runs once through the images and remembers only the best of each feature map, so that memory
    does not grow with their number.

    Args:
        model: One of this package's networks; untouched, and run as in eval mode.
        images: uint8 (N, 3, 32, 32), N > 0; may be mapped from disk.
        k: How many images to keep for each feature map (fewer if there are not as many).
        batch_size: Images that go through the network at once.
        progress: Show a bar, if standard error is a terminal.

    Returns:
        The convolutions' `TopActivations` by name, from ``"conv1"`` to ``"classifier"``. An
        activation is the convolution's output, before its ReLU.

    Raises:
        ImageError: `images` is something else, or there are none.
    """
    if len(images) == 0:
        raise ImageError("there are no images to look for activations in")
    network = private_copy(model)
    kernel, fields = network.classifier.weight, receptive_fields(network)
    best: dict[str, TopActivations] = {}
    visible = progress and sys.stderr.isatty()
    with (
        torch.no_grad(),
        torch.autocast(kernel.device.type, enabled=False),
        tqdm(total=len(images), unit="image", disable=not visible, leave=False) as bar,
    ):
        for start in range(0, len(images), batch_size):
            batch = to_batch(images[start : start + batch_size]).to(kernel.device)
            for name, maps in run(network, model.preprocess(batch).to(kernel.dtype)):
                if isinstance(layers(network)[name], nn.Conv2d):
                    new = _of_batch(name, fields[name], maps, first_image=start)
                    best[name] = _best(k, [best[name], new] if name in best else [new])
            bar.update(len(batch))
    return best


def _of_batch(layer: str, field: ReceptiveField, maps: Tensor, first_image: int) -> TopActivations:
    """The strongest activation in each image of a batch, maps (N, channels, height, width)."""
    values, cells = maps.flatten(2).max(dim=2)
    images = torch.arange(first_image, first_image + len(maps)).expand(values.T.shape)
    positions = torch.stack([cells // maps.shape[3], cells % maps.shape[3]], dim=-1)
    return TopActivations(
        layer, field, values.T.float().cpu(), images, positions.transpose(0, 1).cpu()
    )


def _best(k: int, some: Sequence[TopActivations]) -> TopActivations:
    """The k strongest activations of each feature map among all of these."""
    values = torch.cat([each.values for each in some], dim=1)
    images = torch.cat([each.images for each in some], dim=1)
    positions = torch.cat([each.positions for each in some], dim=1)
    values, order = values.topk(min(k, values.shape[1]), dim=1)
    return TopActivations(
        some[0].layer,
        some[0].field,
        values,
        images.gather(1, order),
        positions.gather(1, order[..., None].expand(-1, -1, 2)),
    )
