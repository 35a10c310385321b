"""The strongest activations of each feature map: in which images, and where."""

import dataclasses
import sys
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..errors import ImageError
from ..images import to_batch
from ..model import AllCNN
from .attribution import layers, private_copy, run


@dataclasses.dataclass(frozen=True)
class ReceptiveField:
    """The square of the whitened image that an activation depends on.

    Attributes:
        size: Its side in pixels, the padding around the image included.
        step: How far it moves from one position of the feature map to the next.
        start: Row and column where the square of position (0, 0) begins; not positive.
    """

    size: int = 1
    step: int = 1
    start: int = 0

    def window(self, position: int, length: int) -> slice:
        """The rows (or columns) of an image that a row (or column) of the map depends on.

        At the border, the window is moved inside the `length` of the image.
        """
        size = min(self.size, length)
        start = min(max(self.start + self.step * position, 0), length - size)
        return slice(start, start + size)


@dataclasses.dataclass(frozen=True)
class TopActivations:
    """The images that activate each feature map of a layer most, the strongest first.

    Attributes:
        layer: Name of the layer.
        field: Its receptive field.
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
        if isinstance(layer, (nn.Conv2d, nn.MaxPool2d)):  # square; only convolutions have tuples
            sizes = (layer.kernel_size, layer.stride, layer.padding)
            kernel, stride, padding = (int(np.max(size)) for size in sizes)
            size, start = (kernel - 1) * field.step, padding * field.step
            field = ReceptiveField(field.size + size, field.step * stride, field.start - start)
        fields[name] = field
    return fields


def top_activations(
    model: AllCNN,
    images: npt.NDArray[np.uint8] | Tensor,
    *,
    k: int = 8,
    batch_size: int = 64,
    progress: bool = False,
) -> dict[str, TopActivations]:
    """Find the images that activate each feature map of each convolution most.

    It goes through the images once and keeps only the strongest activations, so memory does not
    grow with the number of images.

    Args:
        model: One of this package's networks; not changed, and run as in eval mode.
        images: uint8 (N, 3, 32, 32), N > 0; may be mapped from disk.
        k: How many images to keep for each feature map; all, if there are fewer.
        batch_size: Images that go through the network at once.
        progress: Show a bar, if standard error is a terminal.

    Returns:
        The convolutions' `TopActivations` by name, from ``"conv1"`` to ``"classifier"``. An
        activation is the convolution's output, before its ReLU.

    Raises:
        ImageError: `images` is something else or empty.
    """
    if len(images) == 0:
        raise ImageError("there are no images; pass at least one")
    network = private_copy(model)
    kernel, fields = network.classifier.weight, receptive_fields(network)
    best: dict[str, TopActivations] = {}
    hidden = None if progress and sys.stderr else True  # None: unless it is a terminal
    with (
        torch.no_grad(),
        torch.autocast(kernel.device.type, enabled=False),
        tqdm(total=len(images), unit="image", disable=hidden, leave=False) as bar,
    ):
        for start in range(0, len(images), batch_size):
            batch = to_batch(images[start : start + batch_size]).to(kernel.device)
            for name, maps in run(network, model.preprocess(batch).to(kernel.dtype)):
                if isinstance(layers(network)[name], nn.Conv2d):
                    found = _of_batch(name, fields[name], maps, first_image=start)
                    best[name] = _best(k, [best[name], found] if name in best else [found])
            bar.update(len(batch))
    return best


def _of_batch(layer: str, field: ReceptiveField, maps: Tensor, first_image: int) -> TopActivations:
    """The strongest activation in each image of a batch, maps (N, channels, height, width)."""
    values, cells = (each.T.cpu() for each in maps.flatten(2).max(dim=2))
    images = torch.arange(first_image, first_image + len(maps)).expand(values.shape)
    positions = torch.stack([cells // maps.shape[3], cells % maps.shape[3]], dim=-1)
    return TopActivations(layer, field, values.float(), images, positions)


def _best(k: int, some: Sequence[TopActivations]) -> TopActivations:
    """The k strongest activations of each feature map among all of these."""
    values, images, positions = (
        torch.cat([getattr(each, name) for each in some], dim=1)
        for name in ("values", "images", "positions")
    )
    values, order = values.topk(min(k, values.shape[1]), dim=1)
    return dataclasses.replace(
        some[0],
        values=values,
        images=images.gather(1, order),
        positions=positions.gather(1, order[..., None].expand(-1, -1, 2)),
    )
