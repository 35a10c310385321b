"""The paper's networks as PyTorch modules, built from the table in `architectures`."""

import dataclasses
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from . import checkpoint
from .architectures import HEAD, STAGES, Architecture, Conv
from .errors import AllCNNZooError, ArchitectureError, CheckpointError
from .machine import survive_forks
from .preprocessing import Preprocessor, get_preprocessing, name_of
from .storage import write_atomically
from .weights import CUSTOM, GCN_ZCA, OWN, Metadata

survive_forks()  # here, as whoever has a network has imported this module


class AllCNN(nn.Module):
    """One of the paper's networks: a plain stack of convolutions, a global average, logits.

    All-CNN-C has 1,369,738 parameters with 10 outputs (reference: paper, section 3.2).

    Where neon's published network and the paper differ: neon pads the last 3x3 convolution
    (``Architecture.last_padding=1``, the default here because the published weights need it; the
    paper's own is 0), and its convolutions have no biases (here they are zero after conversion).
    Both put a ReLU after every convolution, the last included (``Architecture.final_relu``).
    The paper does not say how its poolings and strided convolutions treat the border; here all of
    them are padded so that a stage halves 32 to 16 and 16 to 8 exactly.

    The input is a whitened image batch, float ``(N, 3, H, W)``, 32x32 as trained; any size that
    survives two halvings works, because the last step is a global average. It is cast to the type
    of the weights, so ``model.half()`` takes what ``model.preprocess`` gives. The output is float
    ``(N, num_classes)``: logits, no softmax. Convolutions start from He's initialization and zero
    biases.

    Besides weights and biases, the `state_dict` holds the settings that no shape shows
    (`Architecture.code`): a network that loads it gets the last padding and the last ReLU that the
    weights were trained with.

    Args:
        architecture: What to build; All-CNN-C as neon trained it by default.
        dropout: Probability of dropping an input value, and of dropping an activation after each
            stage, in training mode (paper, section 3.1).
        batch_norm: Put batch normalization between each convolution and its ReLU, except after the
            last. For training only: `fold_batch_norm` gives the plain network back.

    Attributes:
        classifier: The last convolution, 1x1; or `nn.Identity` if the outputs are averaged
            features, float ``(N, num_features)``.
        num_features: Channels of the feature map that `forward_features` returns.
    """

    # torch.jit.script compiles properties unless they are listed here, and reads them even then.
    __jit_unused_properties__ = ("architecture", "num_classes", "preprocess", "weights")
    __jit_ignored_attributes__ = __jit_unused_properties__

    if TYPE_CHECKING:  # torch.jit.script would compile what it finds in annotations
        # Set in __dict__, as nn.Module would list preprocessing and head among its parts.
        _metadata: Metadata | None  # what was described last,
        _described_head: nn.Module | None  # and which module had the outputs that it names
        _preprocess: nn.Module | str  # a name until it is used

    def __init__(
        self,
        architecture: Architecture | None = None,
        *,
        dropout: tuple[float, float] = (0.2, 0.5),
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        architecture = architecture or Architecture()
        self._name, self._widths = architecture.name, architecture.widths
        self.num_features = self._widths[1]
        self.features = nn.Sequential(
            OrderedDict(self._layers(architecture.last_padding, dropout, batch_norm))
        )
        self.classifier = _make_classifier(self.num_features, architecture.num_classes)
        self.final_activation = nn.ReLU() if architecture.final_relu else nn.Identity()
        if not next(self.parameters()).is_meta:  # else there are no numbers to draw
            self.apply(_initialize)
        self.__dict__.update(_metadata=None, _described_head=None, _preprocess=GCN_ZCA)
        self.register_load_state_dict_post_hook(_forgive_missing_code)  # type: ignore[no-untyped-call]

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "preprocess":  # nn.Module would register it as a part of the network
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def _layers(
        self, last_padding: int, dropout: tuple[float, float], batch_norm: bool
    ) -> Iterator[tuple[str, nn.Module]]:
        """Yield the trunk's modules with their names in the `state_dict`."""
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
        for number, width in enumerate(self._widths, start=1):
            for spec in STAGES[self._name]:
                if isinstance(spec, Conv):
                    yield from conv(spec, width, padding=spec.kernel // 2)
                else:
                    yield f"pool{number}", nn.MaxPool2d(3, stride=2, padding=1)
            yield f"dropout{number}", nn.Dropout(dropout[1])
        for spec, padding in zip(HEAD, (last_padding, 0), strict=True):
            yield from conv(spec, self.num_features, padding)

    def forward_features(self, x: Tensor) -> Tensor:
        """The trunk's feature map, float ``(N, num_features, H', W')``: 8x8 for neon's padding."""
        x = x.to(self.features[1].weight.dtype)  # type: ignore[arg-type]
        return self.features(x)  # type: ignore[no-any-return]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits ``(N, num_classes)`` of a feature map, float ``(N, num_features, H', W')``.

        With `pre_logits`, the averaged feature map instead, float ``(N, num_features)``.
        """
        if not pre_logits:
            x = self.final_activation(self.classifier(x))
        return x.mean(dim=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Logits, float ``(N, num_classes)``, of preprocessed images, float ``(N, 3, H, W)``."""
        return self.forward_head(self.forward_features(x))

    @property
    def num_classes(self) -> int:
        """Number of outputs of the last convolution; 0 without one."""
        return int(getattr(self.classifier, "out_channels", 0))

    @property
    def architecture(self) -> Architecture:
        """The network's current architecture, replaced layers included."""
        return Architecture(
            self._name,
            self.num_classes,
            self._widths,
            last_padding=self._last_padded().padding[0],  # type: ignore[arg-type]
            final_relu=isinstance(self.final_activation, nn.ReLU),
        )

    def _last_padded(self) -> nn.Conv2d:
        """The last 3x3 convolution, padded (neon) or not (the paper)."""
        *_, conv, _ = (layer for layer in self.features if isinstance(layer, nn.Conv2d))
        return conv

    def get_extra_state(self) -> Tensor:
        """The architecture's `code`, float32 ``(3,)``, for the `state_dict`."""
        return checkpoint.code_of(self.architecture)

    def set_extra_state(self, state: Tensor) -> None:
        """Take the last padding and the last ReLU from `state`.

        An `ArchitectureError` if it belongs to another network or is damaged.
        """
        try:
            network, last_padding, final_relu = map(int, state.tolist())
            of = Architecture(list(STAGES)[network], last_padding=last_padding)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            raise ArchitectureError(
                "the _extra_state of this state_dict is damaged; weights also load without it"
            ) from None
        if of.name != self._name:
            raise ArchitectureError(
                f"these are weights of {of.name}, and this network is {self._name}"
            )
        self._last_padded().padding = (last_padding, last_padding)
        self.final_activation = nn.ReLU() if final_relu else nn.Identity()

    def get_classifier(self) -> nn.Conv2d:
        """The last convolution, 1x1 from `num_features` to `num_classes` channels."""
        return self.classifier

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the last convolution by a new one with `num_classes` outputs.

        With 0 there is none, and the network returns averaged features. An `ArchitectureError` if
        it is not an integer in 0...65536.
        """
        architecture = Architecture(self._name, num_classes)
        like = next(self.parameters())
        fresh = _make_classifier(self.num_features, architecture.num_classes)
        self.classifier = fresh.to(like.device, like.dtype)
        self.classifier.apply(_initialize)

    @property
    def weights(self) -> Metadata | None:
        """The description of the weights, if there is one.

        Tag, provenance and metrics hold for exactly these numbers: after any change of a weight or
        of the preprocessing, only the class names are left. None for a new network, and after the
        last convolution was replaced. Each access computes a digest of the weights, which takes a
        few milliseconds.
        """
        metadata = self._metadata
        if metadata is None or self._described_head is not self.classifier:
            return None
        preprocessing = self._preprocessing_now()
        holds = metadata.preprocessing == preprocessing and metadata.digest == self._digest()
        if holds and _odd_layer(self) is None:
            return metadata
        return Metadata(CUSTOM, self.architecture, metadata.classes, preprocessing)

    @weights.setter
    def weights(self, metadata: Metadata | None) -> None:
        if metadata is not None and metadata.architecture != self.architecture:
            raise CheckpointError(
                f"the description is of {metadata.architecture}, the network is {self.architecture}"
            )
        if metadata is not None and metadata.digest is None:
            metadata = dataclasses.replace(metadata, digest=self._digest())
        self.__dict__.update(_metadata=metadata, _described_head=self.classifier)

    def _digest(self) -> str:
        return checkpoint.digest_of(self.state_dict(), self._own_statistics())

    def _preprocessing_now(self) -> str:
        preprocess = self._preprocess
        return preprocess if isinstance(preprocess, str) else name_of(preprocess)

    def _own_statistics(self) -> Preprocessor | None:
        """The statistics to store in the weights file, for a preprocessing without a name."""
        own = self._preprocess
        return own if isinstance(own, Preprocessor) and name_of(own) == OWN else None

    @property
    def preprocess(self) -> nn.Module:
        """The preprocessing that belongs to the weights, on the device of the weights.

        A module from uint8 images ``(N, 3, 32, 32)`` or ``(3, 32, 32)`` to float32 network inputs
        of that shape. A new network has that of neon 1.5.0 and later. It is not part of the
        `state_dict`, and loads on first use. You can assign another, for example
        ``Preprocessor.fit(images)``, which `save` then stores in the weights file.
        """
        preprocess = self._preprocess
        if isinstance(preprocess, str):
            preprocess = self.__dict__["_preprocess"] = get_preprocessing(preprocess)
        return preprocess.to(next(self.parameters()).device)

    @preprocess.setter
    def preprocess(self, module: nn.Module) -> None:
        self.__dict__["_preprocess"] = module

    def save(
        self,
        path: str | Path,
        *,
        classes: Sequence[str] | None = None,
        tag: str | None = None,
        provenance: Mapping[str, Any] | None = None,
        metrics: Mapping[str, Any] | None = None,
    ) -> None:
        """Write a weights file that `allcnn_zoo.load` reads: network, preprocessing, description.

        Batch normalization is folded into the convolutions. Arguments that you leave out come from
        `weights`, if they still hold.

        Args:
            path: Destination, usually ``*.safetensors``; replaced if it exists.
            classes: Class names, one for each output.
            tag: Short name of these weights.
            provenance: Where they come from, JSON values.
            metrics: Figures measured for exactly these weights, JSON values.

        Raises:
            CheckpointError: The class names are unknown or not as many as outputs, a weight is not
                finite, or a file cannot store the preprocessing.
            OSError: The file cannot be written; nothing is left behind.
        """
        described = self.weights
        names = None if classes is None else tuple(classes)
        if described is None:
            if names is None and self.num_classes:
                raise CheckpointError(
                    f"the classes of the {self.num_classes} outputs are unknown; name them with"
                    " model.save(path, classes=[...])"
                )
            preprocessing = self._preprocessing_now()
            described = Metadata(CUSTOM, self.architecture, names or (), preprocessing)
        asked = {"classes": names, "tag": tag, "provenance": provenance, "metrics": metrics}
        changes: dict[str, Any] = {key: value for key, value in asked.items() if value is not None}
        write_atomically(path, self.to_bytes(dataclasses.replace(described, **changes)))

    def to_bytes(self, metadata: Metadata) -> bytes:
        """The content of a weights file of this network with this header; errors as in `save`."""
        statistics = self._own_statistics()
        if self._preprocessing_now() == OWN and statistics is None:
            raise CheckpointError(
                "a weights file can store only a Preprocessor, and this preprocessing is a"
                f" {type(self.preprocess).__name__}; give it a name in"
                " allcnn_zoo.preprocessing.PREPROCESSINGS"
            )
        plain = fold_batch_norm(self)
        return checkpoint.to_bytes(plain.state_dict(), metadata, preprocess=statistics)

    def __getstate__(self) -> dict[str, object]:
        # Copies and pickles hold the name of a preprocessing, not its 38 MB of statistics.
        name = self._preprocessing_now()
        return {**self.__dict__, "_preprocess": self._preprocess if name == OWN else name}


def _make_classifier(features: int, classes: int) -> nn.Conv2d:
    if classes:
        return nn.Conv2d(features, classes, 1)
    return nn.Identity()  # type: ignore[return-value]  # whose users want no convolution


def _forgive_missing_code(_: nn.Module, keys: Any) -> None:
    """Accept another program's `state_dict`, with weights and biases only."""
    if "_extra_state" in keys.missing_keys:
        keys.missing_keys.remove("_extra_state")


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def metadata_of(model: AllCNN) -> Metadata:
    """The description of a network's weights; an `AllCNNZooError` if its outputs have no names."""
    # A name has no weights, another module may have others, and a Classifier is no network.
    metadata = getattr(model, "weights", None) if isinstance(model, nn.Module) else None
    if not isinstance(metadata, Metadata) or not metadata.classes:
        raise AllCNNZooError(
            "this network's classes are unknown: its weights are random, or its last convolution"
            " was replaced. Build it with pretrained=True or allcnn_zoo.load(file), or save your"
            " trained network with model.save(path, classes=[...]) and load that"
        )
    return metadata


def with_tensors(architecture: Architecture, tensors: Mapping[str, Tensor]) -> AllCNN:
    """The plain network of this `state_dict`, in eval mode."""
    with torch.device("meta"):  # no time and no random numbers for weights that are replaced
        model = AllCNN(architecture)
    model.load_state_dict(tensors, assign=True)
    return model.eval()


def build(
    tensors: Mapping[str, Tensor], metadata: Metadata, preprocess: Preprocessor | None = None
) -> AllCNN:
    """The network of a weights file, in eval mode; arguments as in `checkpoint.Checkpoint`."""
    model = with_tensors(metadata.architecture, tensors).requires_grad_()
    model.__dict__["_preprocess"] = preprocess or metadata.preprocessing
    model.weights = metadata
    return model


def load(path: str | Path) -> AllCNN:
    """The network that a weights file describes, in eval mode; errors as in `checkpoint.read`."""
    return build(*checkpoint.read(path))


def _odd_layer(model: AllCNN) -> str | None:
    """Name of a layer that was replaced, added or removed, if any."""
    with torch.device("meta"):
        found, expected = _computing(model), _computing(AllCNN(model.architecture))
    for name, plain in expected.items():
        layer = found.get(name)
        if not isinstance(layer, type(plain)):
            return name
        if layer.extra_repr().removeprefix("inplace=True") != plain.extra_repr():
            return name
    return next(iter(found.keys() - expected.keys()), None)


def _computing(model: AllCNN) -> dict[str, nn.Module]:
    """The layers that matter at inference, except batch normalization."""
    idle = nn.BatchNorm2d | nn.Dropout | nn.Identity
    trunk = model.features.named_children()
    layers = {f"features.{name}": layer for name, layer in trunk if not isinstance(layer, idle)}
    return layers | {"classifier": model.classifier, "final_activation": model.final_activation}


def fold_batch_norm(model: AllCNN) -> AllCNN:
    """The plain network that computes what `model` computes in eval mode.

    Each batch normalization is an affine map per channel, so it folds exactly into the weight and
    bias of the convolution before it; the arithmetic is done in float64. `model` is left untouched,
    and may be plain already. The result is in eval mode, on the same device.

    Raises:
        CheckpointError: A layer was replaced, added or removed.
    """
    if (odd := _odd_layer(model)) is not None:
        raise CheckpointError(
            f"{odd} was replaced, added or removed, which neither weights files nor exports can"
            f" describe: they hold networks with the layers of {model.architecture.name}"
        )
    modules = dict(model.named_modules())
    state = {}
    for name, layer in _computing(model).items():
        if not isinstance(layer, nn.Conv2d):
            continue
        assert layer.bias is not None
        weight, bias = layer.weight.detach().double(), layer.bias.detach().double()
        norm = modules.get(name.replace("conv", "norm"))
        if isinstance(norm, nn.BatchNorm2d):
            exact = {key: value.double() for key, value in norm.state_dict().items()}
            mean, variance = exact["running_mean"], exact["running_var"]
            weight, bias = fuse_conv_bn_weights(
                weight, bias, mean, variance, norm.eps, exact["weight"], exact["bias"]
            )
        state[f"{name}.weight"], state[f"{name}.bias"] = weight.float(), bias.float()
    plain = with_tensors(model.architecture, state)
    plain.__dict__.update(
        _metadata=model._metadata if model._described_head is model.classifier else None,
        _described_head=plain.classifier,
        _preprocess=model._preprocess,
    )
    return plain.to(next(model.parameters()).device)
