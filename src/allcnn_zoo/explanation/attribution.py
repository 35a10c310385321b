"""Attribution of an activation to the image: gradient, deconvnet, guided backpropagation.

They differ only in where a ReLU passes the gradient back (Springenberg et al., arXiv 1412.6806,
section 3.4 and figure 1):

    gradient    where its input was positive                    (Simonyan et al. 2014)
    deconvnet   where the gradient itself is positive           (Zeiler & Fergus 2014)
    guided      where both are: "guided backpropagation"        (the paper's own)

Every other layer passes back its gradient; max-pooling does so through its switches.
"""

import contextlib
import copy
import dataclasses
import functools
import operator
from collections.abc import Iterator
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from ..errors import ArchitectureError, UnknownNameError, check_name
from ..images import ImageLike, ImagesLike, to_batch
from ..model import AllCNN

Method = Literal["guided", "deconvnet", "gradient"]
METHODS: tuple[Method, ...] = ("guided", "deconvnet", "gradient")


@dataclasses.dataclass(frozen=True)
class FeatureMap:
    """One activation of an inner layer.

    Attributes:
        layer: Name of a layer, as in ``model.features``: ``"conv3"`` is the output of that
            convolution, ``"relu3"`` that of its ReLU, ``"pool1"`` that of a max-pooling;
            ``"classifier"`` is the map of each class before it is averaged.
        channel: Number of the feature map; each image's most active one if None.
        position: Row and column in it; each image's most active ones if None.
    """

    layer: str
    channel: int | None = None
    position: tuple[int, int] | None = None


Target: TypeAlias = int | str | FeatureMap | None


def explain(
    model: AllCNN,
    images: ImageLike | ImagesLike,
    target: Target = None,
    *,
    method: Method = "guided",
) -> Tensor:
    """Attribute an output of the network, or an activation inside it, to the images.

    One number per image is explained, a class's logit or one activation, as computed in eval mode.
    `explain` works on a copy, so it does not change the mode, hooks, gradients or flags of `model`.

    Args:
        model: One of this package's networks, with any weights, on any device.
        images: One image or several, of any kind that `Classifier` takes.
        target: A class by number or by name, or a `FeatureMap`; the most probable class of each
            image if None.
        method: ``"guided"`` (backpropagation), ``"deconvnet"`` or plain ``"gradient"``.

    Returns:
        Signed attribution (N, 3, 32, 32) to the *whitened* images, the network's input
        (``model.preprocess(images)``), in the model's dtype and on its device. It is the same
        inside ``torch.no_grad``, ``inference_mode`` and ``autocast``.

    Raises:
        ImageError: Something is not an image.
        UnknownNameError: There is no such method, class, layer, channel or position.
        ArchitectureError: `model` is not one of this package's networks.
    """
    check_name(method, METHODS, "method")
    network = private_copy(model)
    for layer in network.modules():
        if isinstance(layer, nn.ReLU):
            layer.inplace = False  # its input is needed below
            layer.register_forward_hook(functools.partial(_pass_back, method))
    kernel = network.classifier.weight
    batch = to_batch(images).to(kernel.device)
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(kernel.device.type, enabled=False),
    ):
        inputs = model.preprocess(batch).to(kernel.dtype).requires_grad_()
        score = _scores(network, inputs, target).sum()
        attribution: Tensor = torch.autograd.grad(score, inputs)[0]
    return attribution


def private_copy(model: AllCNN) -> AllCNN:
    """Copy a network, in eval mode, so that its layers can be changed."""
    if not isinstance(model, AllCNN):
        raise ArchitectureError(
            f"a {type(model).__name__} cannot be explained; pass the allcnn_zoo.AllCNN itself,"
            " unwrapped and uncompiled"
        )
    with torch.inference_mode(False):  # parameters made in inference mode become normal ones
        return copy.deepcopy(model).eval().requires_grad_(False)


def layers(network: AllCNN) -> dict[str, nn.Module]:
    """The layers in order, from the image to the map of each class."""
    return {**dict(network.features.named_children()), "classifier": network.classifier}


def run(network: AllCNN, inputs: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yield the name and the output of each layer, (N, channels, height, width)."""
    x = inputs
    for name, layer in layers(network).items():
        x = layer(x)
        yield name, x


def _pass_back(method: Method, _: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
    """The output of a ReLU, through which gradients come back as the method wants it."""
    if method == "deconvnet":
        output = inputs[0] + (output - inputs[0]).detach()  # with the gradient of the identity
    if method != "gradient":
        output.register_hook(lambda gradient: gradient.clamp(min=0))  # type: ignore[no-untyped-call]
    return output


def _scores(network: AllCNN, inputs: Tensor, target: Target) -> Tensor:
    """The output or activation of each image that is explained, (N,)."""
    if isinstance(target, FeatureMap):
        outputs = _feature_map(network, inputs, target)
    else:
        outputs = network(inputs)
        if target is not None:
            outputs = outputs[:, [class_number(network, target)]]
    # Not amax, which spreads the gradient over equal values.
    return outputs.flatten(1).max(dim=1).values


def _feature_map(network: AllCNN, inputs: Tensor, target: FeatureMap) -> Tensor:
    """The activations that `target` allows, (N, channels, height, width)."""
    check_name(target.layer, layers(network), "layer")
    outputs = next(output for name, output in run(network, inputs) if name == target.layer)
    if target.channel is not None:
        channel = _number(target.channel, outputs.shape[1], f"channel of {target.layer}")
        outputs = outputs[:, [channel]]
    if target.position is not None:
        if not isinstance(target.position, (tuple, list)) or len(target.position) != 2:
            raise UnknownNameError(
                f"there is no position {target.position!r:.80}; (row, column) is needed"
            )
        row = _number(target.position[0], outputs.shape[2], f"row of {target.layer}")
        column = _number(target.position[1], outputs.shape[3], f"column of {target.layer}")
        outputs = outputs[:, :, [row], [column]]
    return outputs


def class_number(model: AllCNN, target: int | str) -> int:
    """The output of a class, given by number or by name."""
    if not isinstance(target, str):
        return _number(target, model.architecture.num_classes, "class")
    names = class_names(model)
    if not names:
        raise UnknownNameError(
            f"this network's classes have no names, so {target!r:.80} is unknown; give a number"
            f" in 0...{model.architecture.num_classes - 1}"
        )
    check_name(target, names, "class")
    return names.index(target)


def class_names(model: AllCNN) -> tuple[str, ...]:
    """The class names of the weights; none if the last convolution was replaced."""
    weights = model.weights
    return weights.classes if weights else ()


def _number(number: Any, count: int, what: str) -> int:
    """An index below `count` from a Python or numpy integer or a tensor."""
    with contextlib.suppress(TypeError):  # not an integer, or several of them
        index = operator.index(number)
        if 0 <= index < count and not isinstance(number, bool):
            return index
    raise UnknownNameError(
        f"there is no {what} {number!r:.80}; an integer in 0...{count - 1} is needed"
    )
