"""The paper's twelve CIFAR-10 networks, from one table.

Springenberg, Dosovitskiy, Brox & Riedmiller, "Striving for Simplicity: The All Convolutional Net"
(arXiv 1412.6806), section 3 and tables 1 and 2. Every network is two stages, each of which halves
the resolution, and a head:

    image 32x32 --stage 1, 96 wide--> 16x16 --stage 2, 192 wide--> 8x8 --head--> logits

The model letter (A, B, C) says which convolutions a stage begins with, the variant how it ends.
"""

import dataclasses
import functools
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from .errors import ArchitectureError
from .preprocessing import Preprocessor


@dataclasses.dataclass(frozen=True)
class Conv:
    """A convolution with a square kernel, followed by a ReLU."""

    kernel: int
    stride: int = 1


@dataclasses.dataclass(frozen=True)
class MaxPool:
    """Overlapping 3x3 max-pooling with stride 2."""


# Which kernels a stage begins with (table 1) ...
MODELS: dict[str, tuple[Conv, ...]] = {
    "a": (Conv(5),),
    "b": (Conv(5), Conv(1)),
    "c": (Conv(3), Conv(3)),
}

# ... and how it ends: the pooling that the paper asks about, and three ways to do without or with
# more (section 3, table 2). "Strided" gives its stride to the last convolution before the pooling.
VARIANTS: dict[str, Callable[[tuple[Conv, ...]], tuple[Conv | MaxPool, ...]]] = {
    "base_{}": lambda convs: (*convs, MaxPool()),
    "strided_cnn_{}": lambda convs: (*convs[:-1], dataclasses.replace(convs[-1], stride=2)),
    "convpool_cnn_{}": lambda convs: (*convs, Conv(3), MaxPool()),
    "allcnn_{}": lambda convs: (*convs, Conv(3, stride=2)),
}

_LIMIT = (
    65_536  # on widths and outputs: far beyond use, and small enough that shapes cannot overflow
)

STAGES: dict[str, tuple[Conv | MaxPool, ...]] = {
    variant.format(model): end(convs)
    for variant, end in VARIANTS.items()
    for model, convs in MODELS.items()
}


@dataclasses.dataclass(frozen=True)
class Architecture:
    """Everything that decides a network's shapes and its arithmetic at inference.

    Attributes:
        name: One of the twelve names in `STAGES`, such as ``"allcnn_c"``.
        num_classes: Number of outputs.
        widths: Channels of the first stage, and of the second stage and the head. The paper's are
            (96, 192).
        last_padding: Padding of the last 3x3 convolution. neon's script pads it by 1 and averages
            8x8 positions; the paper leaves it unpadded (0) and averages 6x6. The weights have the
            same shapes either way, but they belong to the padding that they were trained with.
        final_relu: Whether a ReLU follows the last convolution, as in the paper and in neon.

    Raises:
        ArchitectureError: An attribute is out of its range.
    """

    name: str = "allcnn_c"
    num_classes: int = 10
    widths: tuple[int, int] = (96, 192)
    last_padding: int = 1
    final_relu: bool = True

    def __post_init__(self) -> None:
        if self.name not in STAGES:
            raise ArchitectureError(
                f"no network is called {self.name!r:.60}; there are {', '.join(STAGES)}"
            )
        if len(self.widths) != 2 or not all(_is_count(width) for width in self.widths):
            raise ArchitectureError(
                f"widths={self.widths!r:.60}: two integers in 1...{_LIMIT} are needed"
            )
        if not _is_count(self.num_classes):
            raise ArchitectureError(
                f"num_classes={self.num_classes!r:.60}: an integer in 1...{_LIMIT} is needed"
            )
        if self.last_padding not in (0, 1):
            raise ArchitectureError(
                f"last_padding={self.last_padding!r:.60}: 1 is neon's, 0 is the paper's"
            )

    @functools.cache  # noqa: B019 - a frozen value, of which there are few
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shape of each tensor in the `state_dict` of the plain network, in its order."""
        with torch.device("meta"):
            model = AllCNN(self)
        shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        return MappingProxyType(shapes)

    def count_parameters(self) -> int:
        """Number of weights and biases of the plain network."""
        return sum(math.prod(shape) for shape in self.shapes().values())


def _is_count(value: object) -> bool:
    return type(value) is int and 0 < value <= _LIMIT


class AllCNN(nn.Module):
    """One of the paper's networks: a plain stack of convolutions, a global average, logits.

    All-CNN-C has 1,369,738 parameters with 10 outputs (reference: paper, section 3.2).

    Where neon's published network and the paper differ: neon pads the last 3x3 convolution
    (``Architecture.last_padding=1``, the default here because the published weights need it; the
    paper's own is 0), and its convolutions have no biases (here they are zero after conversion).
    Both put a ReLU after every convolution, the last included (``Architecture.final_relu``).
    The paper does not say how its poolings and strided convolutions treat the border; here every
    one of them is padded so that a stage halves 32 to 16 and 16 to 8 exactly.

    The input is a whitened image batch, float ``(N, 3, H, W)``, 32x32 as trained; any size that
    survives two halvings works, because the last step is a global average. The output is
    float ``(N, num_classes)``: logits, no softmax. Convolutions start from He's initialisation and
    zero biases.

    Args:
        architecture: What to build; All-CNN-C as neon trained it by default.
        dropout: Probability of dropping an input value, and of dropping an activation after each
            stage, in training mode (paper, section 3.1).
        batch_norm: Put batch normalisation between each convolution and its ReLU, except after the
            last. For training only: `fold_batch_norm` gives the plain network back.

    Attributes:
        weights: What the loaded weights are (a `checkpoint.Metadata`), None for a fresh network.
        make_preprocess: What `preprocess` calls, once, when it is first used.
        num_features: Channels of the feature map that `forward_features` returns.
    """

    # torch.jit.script compiles properties unless told not to, and looks at them even then.
    __jit_unused_properties__ = ("preprocess",)
    __jit_ignored_attributes__ = ("preprocess",)

    def __init__(
        self,
        architecture: Architecture | None = None,
        *,
        dropout: tuple[float, float] = (0.2, 0.5),
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        self.architecture = architecture or Architecture()
        self.weights: object | None = None
        self.make_preprocess: Callable[[], nn.Module] = Preprocessor.shipped
        self.num_features = self.architecture.widths[1]
        self.features = nn.Sequential(OrderedDict(self._layers(dropout, batch_norm)))
        self.classifier = nn.Conv2d(self.num_features, self.architecture.num_classes, 1)
        self.final_activation = nn.ReLU() if self.architecture.final_relu else nn.Identity()
        if not self.classifier.weight.is_meta:  # a shape without numbers needs no random ones
            self.apply(_initialise)

    def _layers(
        self, dropout: tuple[float, float], batch_norm: bool
    ) -> Iterator[tuple[str, nn.Module]]:
        """The trunk, each module under the name that it has in the `state_dict`."""
        channels, index = 3, 0

        def conv(spec: Conv, width: int, padding: int) -> Iterator[tuple[str, nn.Module]]:
            nonlocal channels, index
            index += 1
            yield f"conv{index}", nn.Conv2d(channels, width, spec.kernel, spec.stride, padding)
            if batch_norm:
                yield f"norm{index}", nn.BatchNorm2d(width)
            yield f"relu{index}", nn.ReLU()
            channels = width

        yield "dropout0", nn.Dropout(dropout[0])
        for number, width in enumerate(self.architecture.widths, start=1):
            for spec in STAGES[self.architecture.name]:
                if isinstance(spec, Conv):
                    yield from conv(spec, width, padding=spec.kernel // 2)
                else:
                    yield f"pool{number}", nn.MaxPool2d(3, stride=2, padding=1)
            yield f"dropout{number}", nn.Dropout(dropout[1])
        yield from conv(Conv(3), self.num_features, padding=self.architecture.last_padding)
        yield from conv(Conv(1), self.num_features, padding=0)

    def forward_features(self, x: Tensor) -> Tensor:
        """The trunk's feature map, float ``(N, num_features, H', W')``: 8x8 for neon's padding."""
        return self.features(x)  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        """Logits, float ``(N, num_classes)``, of preprocessed images, float ``(N, 3, H, W)``."""
        x = self.final_activation(self.classifier(self.forward_features(x)))
        return x.mean(dim=(2, 3))

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the last convolution by a fresh one with `num_classes` outputs.

        Raises:
            ArchitectureError: `num_classes` is not an integer in 1...65536.
        """
        self.architecture = dataclasses.replace(self.architecture, num_classes=num_classes)
        old = self.classifier.weight
        self.classifier = nn.Conv2d(
            self.num_features, num_classes, 1, device=old.device, dtype=old.dtype
        )
        _initialise(self.classifier)

    @property
    def preprocess(self) -> nn.Module:
        """The preprocessing that belongs to the weights, on the device of the weights.

        A fresh network has the one that the paper and neon use: `Preprocessor.shipped`. It is not
        part of the `state_dict`, and loads on first use.
        """
        if "_preprocess" not in self.__dict__:
            # Past nn.Module's registry, so that it stays out of state_dict, parameters and train().
            self.__dict__["_preprocess"] = self.make_preprocess()
        preprocess: nn.Module = self.__dict__["_preprocess"]
        return preprocess.to(self.classifier.weight.device)

    def __getstate__(self) -> dict[str, object]:
        # Pickles and copies carry the recipe for the preprocessing, not its 38 MB of statistics.
        return {key: value for key, value in self.__dict__.items() if key != "_preprocess"}


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def fold_batch_norm(model: AllCNN) -> AllCNN:
    """The plain network that computes what `model` computes in eval mode.

    Each batch normalisation is an affine map per channel, so it folds exactly into the weight and
    bias of the convolution before it; the arithmetic is done in float64.

    Args:
        model: A network built with ``batch_norm=True`` (left untouched), or a plain one.

    Returns:
        A network without batch normalisation, in eval mode, on the same device.
    """
    layers = dict(model.features.named_children())
    state = {}
    for name, layer in [*layers.items(), ("", model.classifier)]:
        if not isinstance(layer, nn.Conv2d):
            continue
        assert layer.bias is not None
        weight, bias = layer.weight.detach().double(), layer.bias.detach().double()
        norm = layers.get(name.replace("conv", "norm"))
        if isinstance(norm, nn.BatchNorm2d):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            weight, bias = fuse_conv_bn_weights(
                weight,
                bias,
                norm.running_mean.double(),
                norm.running_var.double(),
                norm.eps,
                norm.weight.detach().double(),
                norm.bias.detach().double(),
            )
        prefix = f"features.{name}" if name else "classifier"
        state[f"{prefix}.weight"], state[f"{prefix}.bias"] = weight.float(), bias.float()
    plain = AllCNN(model.architecture)
    plain.load_state_dict(state)
    plain.weights, plain.make_preprocess = model.weights, model.make_preprocess
    return plain.to(model.classifier.weight.device).eval()
