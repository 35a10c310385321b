"""The paper's networks as PyTorch modules, built from the table in `architectures`."""

import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from .architectures import HEAD, STAGES, Architecture, Conv
from .preprocessing import Preprocessor


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
        has_fresh_head: Whether `classifier` was replaced since `weights` was set, so that the class
            names and figures there are not those of its outputs.
        make_preprocess: What `preprocess` calls, once, when it is first used.
        num_features: Channels of the feature map that `forward_features` returns.
    """

    # torch.jit.script compiles properties unless told not to, and looks at them even then.
    __jit_unused_properties__ = ("preprocess", "num_classes")
    __jit_ignored_attributes__ = ("preprocess", "num_classes")

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

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "weights":
            self.has_fresh_head = False
        elif name == "classifier":
            self.has_fresh_head = True
            self.architecture = dataclasses.replace(
                self.architecture, num_classes=value.out_channels
            )

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
        for spec, padding in zip(HEAD, (self.architecture.last_padding, 0), strict=True):
            yield from conv(spec, self.num_features, padding)

    def forward_features(self, x: Tensor) -> Tensor:
        """The trunk's feature map, float ``(N, num_features, H', W')``: 8x8 for neon's padding."""
        return self.features(x)  # type: ignore[no-any-return]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """What follows the trunk.

        Args:
            x: A feature map, float ``(N, num_features, H', W')``.
            pre_logits: Stop before the last convolution, and average the feature map.

        Returns:
            Logits, float ``(N, num_classes)``, or averaged features, float ``(N, num_features)``.
        """
        if not pre_logits:
            x = self.final_activation(self.classifier(x))
        return x.mean(dim=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Logits, float ``(N, num_classes)``, of preprocessed images, float ``(N, 3, H, W)``."""
        return self.forward_head(self.forward_features(x))

    @property
    def num_classes(self) -> int:
        """Number of outputs."""
        return self.architecture.num_classes

    def get_classifier(self) -> nn.Conv2d:
        """The last convolution, 1x1 from `num_features` to `num_classes` channels."""
        return self.classifier

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the last convolution by a fresh one with `num_classes` outputs.

        Raises:
            ArchitectureError: `num_classes` is not an integer in 1...65536.
        """
        dataclasses.replace(self.architecture, num_classes=num_classes)  # or raise
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
    with torch.device("meta"):  # neither time nor random numbers for weights to be overwritten
        plain = AllCNN(model.architecture)
    plain.load_state_dict(state, assign=True)
    plain.weights, plain.make_preprocess = model.weights, model.make_preprocess
    plain.has_fresh_head = model.has_fresh_head
    return plain.to(model.classifier.weight.device).eval()
