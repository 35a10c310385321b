"""The three signals once more, from the paper's section 3.4, without autograd: layer by layer."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from allcnn_zoo import AllCNN


@torch.no_grad()
def class_signal(model: AllCNN, whitened: Tensor, number: int, method: str) -> Tensor:
    """The signal of a logit, (N, 3, 32, 32)."""
    layers = [*model.features, model.classifier, model.final_activation]
    maps = forward(layers, whitened)[-1]
    seed = torch.zeros_like(maps)
    seed[:, number] = 1 / maps[0, 0].numel()
    return backward(layers, whitened, seed, method)


@torch.no_grad()
def unit_signal(
    model: AllCNN, whitened: Tensor, layer: str, channel: int, row: int, column: int, method: str
) -> Tensor:
    """The signal of one activation, (N, 3, 32, 32)."""
    names = [*dict(model.features.named_children()), "classifier"]
    layers = [*model.features, model.classifier][: names.index(layer) + 1]
    seed = torch.zeros_like(forward(layers, whitened)[-1])
    seed[:, channel, row, column] = 1
    return backward(layers, whitened, seed, method)


def forward(layers: list[nn.Module], x: Tensor) -> list[Tensor]:
    """The input of the first layer and the output of each."""
    values = [x]
    for layer in layers:
        values.append(x if isinstance(layer, nn.Dropout) else layer(x))
        x = values[-1]
    return values


def backward(layers: list[nn.Module], x: Tensor, signal: Tensor, method: str) -> Tensor:
    values = forward(layers, x)
    for layer, below in list(zip(layers, values, strict=False))[::-1]:
        if isinstance(layer, nn.Conv2d):
            signal = through_convolution(layer, below, signal)
        elif isinstance(layer, nn.MaxPool2d):
            signal = through_switches(layer, below, signal)
        elif isinstance(layer, nn.ReLU):
            if method in ("guided", "gradient"):
                signal = signal * (below > 0)
            if method in ("guided", "deconvnet"):
                signal = signal * (signal > 0)
        else:
            assert isinstance(layer, (nn.Dropout, nn.Identity))
    return signal


def through_convolution(layer: nn.Conv2d, below: Tensor, signal: Tensor) -> Tensor:
    """Each output spreads its signal over the patch that it was made from."""
    (kernel, _), (stride, _), (padding, _) = layer.kernel_size, layer.stride, layer.padding
    spread = torch.einsum("nohw,oiyx->niyxhw", signal, layer.weight)
    patches = spread.reshape(len(signal), layer.in_channels * kernel**2, -1)
    return F.fold(patches, below.shape[-2:], kernel, stride=stride, padding=padding)


def through_switches(layer: nn.MaxPool2d, below: Tensor, signal: Tensor) -> Tensor:
    """Each output sends its signal to where its maximum was."""
    _, where = F.max_pool2d(below, layer.kernel_size, layer.stride, layer.padding, 1, False, True)
    received = torch.zeros_like(below).flatten(2)
    return received.scatter_add(2, where.flatten(2), signal.flatten(2)).view_as(below)
