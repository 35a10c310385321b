"""From neon's All-CNN-C to the weights of ours: same logits, same probabilities.

A file is trusted for its structure: every layer must be the one All-CNN-C has in that place, every
shape must follow from the one before, every number must be finite. What neon does around the
convolutions is linear, so it goes into their weights: dropout's factor at inference, biases and
batch normalisation.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NoReturn, TypeAlias

import numpy as np
import numpy.typing as npt

from ..errors import NeonError, NotAllCNNError
from .model import Component, Layer, NeonModel
from .quoting import quote
from .unpickle import Tree

DropoutMode: TypeAlias = Literal["neon", "caffe"]

_CLASSES = 10
_PADDED_OUTPUTS = 16  # neon's GPU kernels wanted outputs in multiples of 16
_INPUT_SHAPE = (3, 32, 32)


@dataclass(frozen=True, eq=False)
class ConvertedAllCNN:
    """An All-CNN-C as neon trained it, in PyTorch's layout.

    Attributes:
        weights: Contiguous float32 arrays by the names of our module's ``state_dict``:
            ``features.conv1.weight`` (output, input, height, width), ``features.conv1.bias``, up to
            ``features.conv8``, then ``classifier.weight`` and ``classifier.bias``.
        widths: Channels of the first three and of the next five convolutions.
        num_classes: Outputs of the classifier.
        last_padding: Padding of the last 3x3 convolution; the paper has 0 there, neon 1.
        final_relu: Whether a ReLU follows the classifier; in neon one does.
        provenance: What the file said and what was done, fit for JSON: see `convert_allcnn`.
    """

    weights: Mapping[str, npt.NDArray[np.float32]]
    widths: tuple[int, int]
    num_classes: int
    last_padding: int
    final_relu: bool
    provenance: Mapping[str, Any]


def convert_allcnn(
    model: NeonModel,
    *,
    keep_padding: bool = False,
    dropout_mode: DropoutMode | None = None,
) -> ConvertedAllCNN:
    """Convert neon's All-CNN-C, of any width, so that logits and probabilities stay neon's own.

    neon's kernels (C*R*S, K) become (K, C, R, S). In its native mode neon multiplies by dropout's
    keep probability at inference; that factor moves into the next convolution's weights (in Caffe
    mode nothing happens at inference). Biases are taken over, batch normalisation is folded into
    weight and bias in float64, missing biases become zeros.

    Files of neon 1.1.5 and older hold parameters only. They are taken for All-CNN-C if the shapes
    fit, and what had to be assumed is listed in the provenance. Up to 1.1.3 dropout did nothing at
    inference, which such a file does not tell: ``dropout_mode="caffe"`` converts those.

    The provenance has the keys ``neon_version``, ``backend``, ``epoch``, ``compat_mode`` (as in
    the file, None if it does not say), ``dropout_folded`` and ``batch_norm_folded`` (convolution to
    keep probability, or to epsilon), ``zero_biases`` (convolutions whose bias was filled in),
    ``padding_outputs_dropped`` (their number) and ``assumed`` (sentences).

    Args:
        model: As from `read_model`.
        keep_padding: Keep all outputs of a network with 16; by default the six that pad CIFAR-10's
            ten classes are dropped. Networks with another number of outputs keep theirs.
        dropout_mode: How dropout works at inference, for a file that does not record it.

    Returns:
        Weights, architecture and provenance; the same for the same input.

    Raises:
        NotAllCNNError: The file is of another network; says where it first differs.
        NeonError: Numbers are not finite, or `dropout_mode` contradicts the file.
    """
    assumed = [] if model.container is not None else [_ASSUMED_ARCHITECTURE]
    mode = _dropout_mode(model, dropout_mode, assumed)
    units = _find_units(model)
    outputs = units[-1].kernel.shape[0]
    kept = _CLASSES if outputs == _PADDED_OUTPUTS and not keep_padding else outputs

    weights: dict[str, npt.NDArray[np.float32]] = {}
    for unit in units:
        folded = _fold(unit, unit.keep if mode == "neon" else 1.0)
        last = unit is units[-1]
        for part, values in zip(("weight", "bias"), folded, strict=True):
            weights[f"{unit.name}.{part}"] = values[:kept].copy() if last else values
    return ConvertedAllCNN(
        weights=weights,
        widths=(units[0].kernel.shape[0], units[3].kernel.shape[0]),
        num_classes=kept,
        last_padding=1,
        final_relu=True,
        provenance={
            "neon_version": model.version,
            "backend": model.backend,
            "epoch": model.epoch,
            "compat_mode": model.compat_mode,
            "dropout_folded": {u.name: u.keep for u in units if mode == "neon" and u.keep != 1},
            "batch_norm_folded": {u.name: u.norm.eps for u in units if u.norm is not None},
            "zero_biases": [u.name for u in units if u.norm is None and u.bias is None],
            "padding_outputs_dropped": outputs - kept,
            "assumed": assumed,
        },
    )


# What the file must contain.


@dataclass(frozen=True)
class Place:
    """A convolution of All-CNN-C: its geometry, and dropout's keep probability before it."""

    name: str
    size: int
    stride: int
    padding: int
    keep: float | None = None


PLACES = (
    Place("features.conv1", 3, 1, 1, keep=0.8),
    Place("features.conv2", 3, 1, 1),
    Place("features.conv3", 3, 2, 1),
    Place("features.conv4", 3, 1, 1, keep=0.5),
    Place("features.conv5", 3, 1, 1),
    Place("features.conv6", 3, 2, 1),
    Place("features.conv7", 3, 1, 1, keep=0.5),
    Place("features.conv8", 1, 1, 0),
    Place("classifier", 1, 1, 0),
)

_ASSUMED_ARCHITECTURE = (
    "the file lists parameters without their network (neon 1.1.5 or older); their shapes are "
    "All-CNN-C's, so strides, paddings, ReLUs, pooling and dropout (keep 0.8, 0.5, 0.5) are too"
)
_ASSUMED_MODE = (
    "the file does not record how dropout works; taken as in neon 1.1.4 and later, which multiply "
    "by keep at inference (dropout_mode='caffe' is right for neon 1.1.3 and older)"
)

_CONVOLUTION_SETTINGS = frozenset(
    {"name", "init", "fshape", "strides", "padding", "dilation", "bsum", "parallelism"}
)
_SETTINGS: Mapping[str, frozenset[str]] = {
    "Dropout": frozenset({"name", "keep"}),
    "Convolution": _CONVOLUTION_SETTINGS,
    "Convolution_bias": _CONVOLUTION_SETTINGS | {"bias"},
    "Bias": frozenset({"name", "init"}),
    "BatchNorm": frozenset({"name", "rho", "eps", "binary"}),
    "Activation": frozenset({"name", "transform"}),
    "Rectlin": frozenset({"name", "slope"}),
    "Softmax": frozenset({"name", "axis", "epsilon"}),
    "Pooling": frozenset({"name", "fshape", "op", "strides", "padding"}),
}


@dataclass(frozen=True, eq=False)
class _Norm:
    """Batch normalisation's parameters, each of shape (K,), float64."""

    gamma: npt.NDArray[np.float64]
    beta: npt.NDArray[np.float64]
    mean: npt.NDArray[np.float64]
    variance: npt.NDArray[np.float64]
    eps: float


@dataclass(frozen=True, eq=False)
class _Unit:
    """A convolution as found: a kernel (K, C, R, S), and what neon does before and after it."""

    name: str
    kernel: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float64] | None
    norm: _Norm | None
    keep: float


class _Walk:
    """The layers of a file in order, each compared with the one All-CNN-C has there."""

    def __init__(self, layers: tuple[Layer, ...]) -> None:
        self._layers = layers
        self._index = 0

    def take(self, *kinds: str) -> Layer:
        layer = self.take_if(*kinds)
        if layer is not None:
            return layer
        article = "an" if kinds[0].startswith("A") else "a"
        expected = f"All-CNN-C has {article} {kinds[0]} there"
        if self._index == len(self._layers):
            raise _other_network(f"it ends after {self._index} layers; {expected}", self._layers)
        found = self._layers[self._index].type
        raise _other_network(f"layer {self._index} is {found}; {expected}", self._layers)

    def take_if(self, *kinds: str) -> Layer | None:
        layer = self._layers[self._index] if self._index < len(self._layers) else None
        if layer is None or layer.kind not in kinds:
            return None
        self._index += 1
        self.check_settings(layer)
        return layer

    def check_settings(self, component: Component) -> None:
        for name in component.config:
            if name not in _SETTINGS[component.kind]:
                self.differ(f"{component.kind} with the setting {quote(name)}", "none such")

    def differ(self, found: str, expected: str) -> NoReturn:
        """Refuse the layer taken last."""
        index = self._index - 1
        raise _other_network(
            f"layer {index} is a {found}; All-CNN-C has {expected} there", self._layers
        )

    def end(self) -> None:
        if self._index < len(self._layers):
            found = self._layers[self._index].type
            raise _other_network(
                f"it goes on with {found} where All-CNN-C ends, after {self._index} layers",
                self._layers,
            )


def _find_units(model: NeonModel) -> list[_Unit]:
    """The nine convolutions, once everything between them has proved to be All-CNN-C's."""
    complete = model.container is not None
    if complete and not str(model.container).endswith(".Sequential"):
        raise _other_network(f"its outermost container is {model.container}", model.layers)
    walk = _Walk(model.layers)
    units: list[_Unit] = []
    for place in PLACES:
        channels = units[-1].kernel.shape[0] if units else _INPUT_SHAPE[0]
        units.append(_find_unit(walk, place, channels, complete=complete))
    if complete:
        _check_pooling(walk)
        _check_activation(walk, "Softmax", "axis")
    walk.end()
    if model.input_shape not in (None, _INPUT_SHAPE):
        raise _other_network(f"its input has shape {model.input_shape}", model.layers)
    _check_widths([unit.kernel.shape[0] for unit in units], model.layers)
    return units


def _find_unit(walk: _Walk, place: Place, channels: int, *, complete: bool) -> _Unit:
    keep = place.keep
    if complete and keep is not None:
        keep = _keep(walk, walk.take("Dropout"))
    convolution = walk.take("Convolution", "Convolution_bias")
    if complete:
        _check_geometry(walk, convolution, place)
    kernel = _kernel(walk, convolution, place, channels)
    width = kernel.shape[0]
    bias = None
    if convolution.kind == "Convolution_bias":
        bias = _vector(walk, convolution, "weight_bias", width)
    elif (layer := walk.take_if("Bias")) is not None:
        bias = _vector(walk, layer, "W", width)
    layer = walk.take_if("BatchNorm")
    norm = None if layer is None else _norm(walk, layer, width)
    if complete:
        _check_activation(walk, "Rectlin", "slope")
    return _Unit(place.name, kernel, bias, norm, 1.0 if keep is None else keep)


def _keep(walk: _Walk, layer: Layer) -> float:
    keep = layer.option("keep")
    if not isinstance(keep, int | float) or not 0 < keep <= 1:
        walk.differ(f"Dropout with keep {_show(keep)}", "one that keeps some and at most all")
    return float(keep)


def _check_geometry(walk: _Walk, layer: Layer, place: Place) -> None:
    for setting, prefix, default, expected in (
        ("strides", "str", 1, place.stride),
        ("padding", "pad", 0, place.padding),
        ("dilation", "dil", 1, 1),
    ):
        found = layer.option(setting)
        if _height_and_width(found, prefix, default) != (expected, expected):
            walk.differ(f"{layer.kind} with {setting} {_show(found)}", f"{setting} {expected}")
    shape = layer.option("fshape")
    if _integers(shape)[:2] != (place.size, place.size):
        walk.differ(f"{layer.kind} of shape {_show(shape)}", f"{place.size}x{place.size} kernels")


def _check_activation(walk: _Walk, kind: str, zero_setting: str) -> None:
    """An activation whose one setting that changes the function must be zero."""
    transform = walk.take("Activation").component("transform")
    if transform.kind != kind:
        walk.differ(transform.kind, kind)
    walk.check_settings(transform)
    setting = transform.option(zero_setting)
    if type(setting) not in (int, float) or setting != 0:
        walk.differ(f"{kind} with {zero_setting} {_show(setting)}", f"{zero_setting} 0")


def _check_pooling(walk: _Walk) -> None:
    """The mean over the whole 8x8 map; then the window's stride has no effect."""
    layer = walk.take("Pooling")
    window, operation, padding = map(layer.option, ("fshape", "op", "padding"))
    whole_map = type(window) is int and window == 8
    whole_map |= _integers(window) == (8, 8) or (isinstance(window, str) and window == "all")
    if not whole_map or not (isinstance(operation, str) and operation == "avg"):
        walk.differ(f"Pooling({_show(window)}, {_show(operation)})", "the mean over 8x8")
    if _height_and_width(padding, "pad", 0) != (0, 0):
        walk.differ(f"Pooling with padding {_show(padding)}", "padding 0")


def _check_widths(widths: list[int], layers: tuple[Layer, ...]) -> None:
    first, second = widths[0], widths[3]
    if widths[:-1] != [first] * 3 + [second] * 5:
        shown = ", ".join(map(str, widths[:-1]))
        raise _other_network(f"its widths are {shown}; All-CNN-C has two, 3 and 5 times", layers)


def _height_and_width(value: Tree, prefix: str, default: int) -> tuple[int, ...]:
    """Strides and the like: one integer, or a dict in which axes may be left out."""
    if isinstance(value, dict) and value.keys() <= {f"{prefix}_{axis}" for axis in "hwd"}:
        return _integers([value.get(f"{prefix}_{axis}", default) for axis in "hw"])
    return _integers([value, value])


def _integers(value: Tree) -> tuple[int, ...]:
    """A list or tuple of integers; empty if it is anything else."""
    items = value if isinstance(value, list | tuple) else ()
    integers = tuple(item for item in items if type(item) is int)
    return integers if len(integers) == len(items) else ()


def _show(value: Tree) -> str:
    """Like `quote`, but short tuples and dicts in full."""
    if isinstance(value, dict) and len(value) < 4:
        return "{" + ", ".join(f"{quote(key)}: {quote(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple) and len(value) < 4:
        return "(" + ", ".join(map(quote, value)) + ")"
    return quote(value)


# Parameters.


def _kernel(walk: _Walk, layer: Layer, place: Place, channels: int) -> npt.NDArray[np.float32]:
    """The weight as a view of shape (K, C, R, S)."""
    weight = layer.params.get("W")
    rows = channels * place.size * place.size
    if weight is None or weight.ndim != 2 or weight.shape[0] != rows:
        shape = None if weight is None else weight.shape
        walk.differ(f"{layer.kind} with weights of shape {shape}", f"({rows}, outputs)")
    outputs = weight.shape[1]
    stated = layer.option("fshape")
    if stated is not None and _integers(stated)[2:] != (outputs,):
        walk.differ(f"{layer.kind} of shape {_show(stated)}", f"{outputs} outputs, as its weights")
    values = _parameter(walk, layer, "W", (rows, outputs))
    return values.reshape(channels, place.size, place.size, outputs).transpose(3, 0, 1, 2)


def _vector(walk: _Walk, layer: Layer, name: str, width: int) -> npt.NDArray[np.float64]:
    return _parameter(walk, layer, name, (width, 1)).astype(np.float64).reshape(width)


def _norm(walk: _Walk, layer: Layer, width: int) -> _Norm:
    eps, binary = layer.option("eps"), layer.option("binary")
    if not isinstance(eps, int | float) or not 0 < eps <= 1 or binary is not False:
        walk.differ(f"BatchNorm with eps {_show(eps)}, binary {_show(binary)}", "a plain one")
    gamma, beta, mean, variance = (
        _vector(walk, layer, name, width) for name in ("gamma", "beta", "gmean", "gvar")
    )
    if variance.min() < 0:
        raise NeonError(f"damaged: a variance in {layer.type} is negative")
    return _Norm(gamma, beta, mean, variance, float(eps))


_PARAMETERS: Mapping[str, frozenset[str]] = {
    "Convolution": frozenset({"W"}),
    "Convolution_bias": frozenset({"W", "weight_bias"}),
    "Bias": frozenset({"W"}),
    "BatchNorm": frozenset({"gamma", "beta", "gmean", "gvar"}),
}


def _parameter(
    walk: _Walk, layer: Layer, name: str, shape: tuple[int, int]
) -> npt.NDArray[np.float32]:
    """A parameter in native byte order, once its shape, type and values are as they must be."""
    if layer.params.keys() != _PARAMETERS[layer.kind]:
        names = ", ".join(map(quote, sorted(layer.params)[:8])) or "none"
        walk.differ(f"{layer.kind} with the parameters {names}", "others")
    values = layer.params[name]
    if values.shape != shape or values.dtype.newbyteorder("=") != np.float32:
        walk.differ(f"{layer.kind} with {quote(values)} as {name}", f"float32 of shape {shape}")
    native = values.astype(np.float32, copy=False)
    if not np.isfinite(native).all():
        raise NeonError(f"damaged: {name} of {layer.type} has values that are not finite")
    return native


def _dropout_mode(model: NeonModel, asked: DropoutMode | None, assumed: list[str]) -> DropoutMode:
    recorded = model.compat_mode
    if recorded is not None and recorded not in ("neon", "caffe"):
        raise NeonError(f"the file records the unknown dropout mode {quote(recorded)}")
    if recorded is not None and asked not in (None, recorded):
        raise NeonError(f"the file records dropout mode {recorded!r}, which is not {asked!r}")
    if recorded is not None:
        return "neon" if recorded == "neon" else "caffe"
    assumed.append(_ASSUMED_MODE if asked is None else f"dropout mode {asked!r}, as asked for")
    return asked or "neon"


def _fold(unit: _Unit, keep: float) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Weight and bias of one plain convolution that does all that the unit does."""
    width = len(unit.kernel)
    scale = np.ones(width)
    bias = np.zeros(width) if unit.bias is None else unit.bias
    with np.errstate(over="ignore"):  # reported below
        if unit.norm is not None:
            scale = unit.norm.gamma / np.sqrt(unit.norm.variance + unit.norm.eps)
            bias = (bias - unit.norm.mean) * scale + unit.norm.beta
        factor = keep * scale
        weight = unit.kernel  # most convolutions have nothing to fold, and copying is cheaper
        if not (factor == 1).all():
            weight = (weight * factor[:, None, None, None]).astype(np.float32)
        folded = np.array(weight, order="C"), bias.astype(np.float32)
    if not all(np.isfinite(values).all() for values in folded):
        raise NeonError(f"damaged: the numbers of {unit.name} are too large for float32")
    return folded


# What else a file may be.

_RESEMBLANCES: tuple[tuple[str, frozenset[str]], ...] = (
    (
        "a recurrent network",
        frozenset({"Recurrent", "LSTM", "GRU", "BiRNN", "BiLSTM", "LookupTable"}),
    ),
    ("an autoencoder or generator", frozenset({"Deconvolution"})),
    ("a residual network", frozenset({"MergeSum"})),
    ("an inception network", frozenset({"MergeBroadcast"})),
    ("a network with several branches", frozenset({"SingleOutputTree", "Tree", "BranchNode"})),
    ("an AlexNet-like network", frozenset({"LRN"})),
)


def _other_network(difference: str, layers: tuple[Layer, ...]) -> NotAllCNNError:
    kinds = {layer.kind for layer in _all_layers(layers)}
    convolutional = not kinds.isdisjoint({"Convolution", "Convolution_bias"})
    like = "a convolutional network" if convolutional else "a network without convolutions"
    if convolutional and "Linear" in kinds:
        like = "a convolutional network with fully connected layers"
    for name, signs in reversed(_RESEMBLANCES):
        if not kinds.isdisjoint(signs):
            like = name
    return NotAllCNNError(f"a neon model, but not All-CNN-C: {difference} (this is {like})")


def _all_layers(layers: tuple[Layer, ...]) -> Iterator[Layer]:
    for layer in layers:
        yield layer
        yield from _all_layers(layer.layers)
