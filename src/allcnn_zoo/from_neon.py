"""From a neon file to our weights: recognize All-CNN, fold dropout, record the origin.

`neon` knows how neon lays out any layer. What is special about All-CNN-C is here: which layers it
has, in which order; and what neon does around its convolutions, all of which is linear and so goes
into their weights: dropout's factor at inference, biases and batch normalization.
"""

import dataclasses
import hashlib
import math
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from . import neon
from .architectures import CHANNELS, CIFAR10_CLASSES, HEAD, SIZE, STAGES, Architecture, Conv
from .checkpoint import read_metadata, save
from .errors import NeonError, NotAllCNNError, printable, quote
from .self_test import PADDED_OUTPUTS, run_self_test
from .weights import CONVERTER_VERSION, Metadata

DropoutMode: TypeAlias = Literal["neon", "caffe"]


def convert_neon(
    source: str | Path,
    destination: str | Path,
    keep_padding: bool = False,
    *,
    dropout_mode: DropoutMode | None = None,
    source_url: str | None = None,
) -> Metadata:
    """Convert neon's All-CNN-C pickle into a weights file; nothing in the pickle is executed.

    The same input gives the same bytes. See `read_neon` for what is done to the weights.

    Args:
        source: neon's file, usually ``*.p``.
        destination: The safetensors file to write, completely or not at all.
        keep_padding: Keep all 16 outputs; by default the six that pad CIFAR-10's ten are dropped.
        dropout_mode: How dropout worked, for a file that does not record it (neon 1.1 and older).
        source_url: Where the file was downloaded from, for the record.

    Returns:
        The header that was written.

    Raises:
        NeonError: The file is not a neon file, is of another network, is not safe, or is
            `destination` itself.
        OSError: `destination` cannot be written; nothing is left behind.
    """
    _refuse_itself(source, destination)
    tensors, metadata = read_neon(
        source, keep_padding=keep_padding, dropout_mode=dropout_mode, source_url=source_url
    )
    save(destination, tensors, metadata)
    return read_metadata(destination)


def read_neon(
    source: str | Path | bytes,
    *,
    keep_padding: bool = False,
    dropout_mode: DropoutMode | None = None,
    source_url: str | None = None,
) -> tuple[dict[str, Tensor], Metadata]:
    """Weights and header from neon's All-CNN-C pickle, in memory.

    Kernels go from neon's (C*R*S, K) to (K, C, R, S); neon's dropout factors are folded into the
    convolution that follows, and biases and batch normalization into theirs, so that logits and
    probabilities are neon's own. The header's provenance says what was done; what had to be
    assumed, because the file does not say, is a warning too.

    The weights are run once on labeled images that come with the package, after each preprocessing
    that neon had. The best one is taken, and likewise the way in which dropout worked, where the
    file does not say. The figures are recorded, and weights that do not classify are a warning:
    see `self_test`.

    Args:
        source: neon's file, or its bytes.
        keep_padding: Keep all 16 outputs; by default the six that pad CIFAR-10's ten are dropped.
        dropout_mode: How dropout worked, for a file that does not record it.
        source_url: Where the file was downloaded from, for the record.

    Returns:
        float32 tensors by the names of the network's ``state_dict``, and their header.

    Raises:
        NeonError: As `convert_neon`.
    """
    found = candidates(
        source, keep_padding=keep_padding, dropout_mode=dropout_mode, source_url=source_url
    )
    # Whatever the caller's defaults are: the figures stay.
    with torch.device("cpu"), torch.autocast("cpu", enabled=False):
        tested = run_self_test([each.tensors for each in found], found[0].metadata.architecture)
    tensors, metadata = found[tested.candidate if tested else 0]
    metadata = dataclasses.replace(
        metadata,
        preprocessing=tested.preprocessing if tested else metadata.preprocessing,
        provenance={**metadata.provenance, "self_test": tested.record if tested else None},
        metrics={"self_test": tested.metrics} if tested else {},
    )
    prefix = "" if isinstance(source, bytes) else f"{printable(source)}: "
    sentences = [*metadata.provenance["assumed"]]
    if tested is None:
        sentences.append("its classes are not CIFAR-10's, so its preprocessing could not be tested")
    elif not tested.fits:
        sentences.append(
            f"these weights do not classify CIFAR-10: at best {tested.metrics['accuracy']:.0%} of"
            f" {tested.metrics['images']} training images are right, or classes are swapped."
            " They may be random, damaged or of other classes; no published figure holds for them"
        )
    for sentence in sentences:
        warnings.warn(f"{prefix}{sentence}", stacklevel=2)
    return tensors, metadata


class Candidate(NamedTuple):
    """Weights that a file may mean: float32 tensors by our names, and their header."""

    tensors: dict[str, Tensor]
    metadata: Metadata


def candidates(
    source: str | os.PathLike[str] | bytes,
    *,
    keep_padding: bool = False,
    dropout_mode: DropoutMode | None = None,
    source_url: str | None = None,
) -> list[Candidate]:
    """Every set of weights that a file may mean; `read_neon` tests them.

    There is one, unless the file does not record how dropout works (neon 1.1 and older) and
    `dropout_mode` does not say. Then the second is that of neon 1.1.3 and older, in which dropout
    does nothing at inference. Images tell which one it is.

    The provenance has the keys ``source`` (``url`` and ``sha256``), ``converter_version``,
    ``neon_version``, ``backend``, ``epoch``, ``compat_mode`` (as in the file, None if it does not
    say), ``dropout_folded`` and ``batch_norm_folded`` (convolution to keep probability, or to
    epsilon), ``zero_biases`` (convolutions whose bias was filled in), ``padding_outputs_dropped``
    (their number) and ``assumed`` (sentences). `read_neon` adds ``self_test``: the figures of each
    candidate after each preprocessing.

    Arguments and errors are those of `read_neon`.
    """
    try:
        data = source if isinstance(source, bytes) else neon.read_file(source)
        return _convert(
            neon.read_model_bytes(data),
            data,
            keep_padding=keep_padding,
            asked=dropout_mode,
            url=source_url,
        )
    except NeonError as error:
        if isinstance(source, bytes) or str(error).startswith(f"{printable(source)}: "):
            raise
        raise type(error)(f"{printable(source)}: {error}") from None


def rescue_neon(
    source: str | Path, destination: str | Path, *, states: bool = False
) -> Mapping[str, Any]:
    """Write every parameter of any neon model to safetensors; nothing in the pickle is executed.

    Names follow the tree of layers, arrays have PyTorch's layouts, and the header describes the
    network: see `neon.rescue`. It is neon's network as it is, not one of ours: to run it, use
    `neon.to_module`. The same network gives the same bytes, whether Python 2 or 3 wrote it.

    Args:
        source: neon's file, usually ``*.p``.
        destination: The safetensors file to write, completely or not at all.
        states: Include the optimizer's states.

    Returns:
        The description that was written: what the file said, and the layers.

    Raises:
        NeonError: The file is not a neon model, contradicts itself, is not safe, or is
            `destination` itself.
        OSError: `destination` cannot be written; nothing is left behind.
    """
    _refuse_itself(source, destination)
    model = neon.read_model(source)
    try:
        network = neon.rescue(model, states=states)
    except NeonError as error:
        raise type(error)(f"{printable(source)}: {error}") from None
    neon.save_rescued(destination, network)
    return network.description


def _refuse_itself(source: str | Path, destination: str | Path) -> None:
    """A legacy file may be the last of its kind: nothing is written over it."""
    try:
        is_same = Path(source).samefile(destination)
    except (OSError, ValueError):  # reading the one or writing the other will say why
        return
    if is_same:
        raise NeonError(f"{printable(source)} would be overwritten; give OUT another name")


# What All-CNN-C has: nine convolutions, each followed by a ReLU. A dropout precedes three of them:
# the input, and what each of the two stages gives.


class _Place(NamedTuple):
    """A convolution of All-CNN-C, and the keep probability of the dropout before it, if any."""

    name: str
    kernel: int
    stride: int
    padding: int
    keep: float | None


_STAGE = [conv for conv in STAGES["allcnn_c"] if isinstance(conv, Conv)]
_NAMES = [name.removesuffix(".weight") for name in Architecture().shapes() if "weight" in name]
_KEEP = {0: 0.8, len(_STAGE): 0.5, 2 * len(_STAGE): 0.5}
_PLACES = [
    # neon pads every 3x3 convolution by 1, the last one included; the paper leaves it bare.
    _Place(name, conv.kernel, conv.stride, conv.kernel // 2, _KEEP.get(index))
    for index, (name, conv) in enumerate(
        zip(_NAMES, [*_STAGE, *_STAGE, *HEAD, Conv(1)], strict=True)
    )
]

_ASSUMED_ARCHITECTURE = (
    "the file lists parameters without their network (neon 1.1.5 or older); their shapes are "
    "All-CNN-C's, so strides, paddings, ReLUs, pooling and dropout (keep 0.8, 0.5, 0.5) are too"
)
_ASSUMED_MODE = {
    "neon": (
        "the file does not record how dropout works; taken as in neon 1.1.4 and later, which "
        "multiply by keep at inference (dropout_mode='caffe' is right for neon 1.1.3 and older)"
    ),
    "caffe": (
        "the file does not record how dropout works; taken as in neon 1.1.3 and older, which do "
        "nothing at inference (dropout_mode='neon' is right for neon 1.1.4 and later)"
    ),
}


def _convert(
    model: neon.NeonModel,
    data: bytes,
    *,
    keep_padding: bool,
    asked: DropoutMode | None,
    url: str | None,
) -> list[Candidate]:
    mode = model.compat_mode or asked
    if asked not in (None, mode):
        raise NeonError(f"the file records dropout mode {quote(mode)}, which is not {asked!r}")
    units = _find_units(model if model.root is not None else _with_network(model))
    outputs = units[-1].width
    kept = len(CIFAR10_CLASSES) if outputs == PADDED_OUTPUTS and not keep_padding else outputs
    digest = hashlib.sha256(data).hexdigest()
    facts = {
        "source": {"url": url, "sha256": digest},
        "converter_version": CONVERTER_VERSION,
        "neon_version": model.version,
        "backend": model.backend,
        "epoch": model.epoch,
        "compat_mode": model.compat_mode,
        "batch_norm_folded": {u.name: u.norm.setting("eps") for u in units if u.norm is not None},
        "zero_biases": [u.name for u in units if u.bias is None and u.norm is None],
        "padding_outputs_dropped": outputs - kept,
    }
    found = []
    for candidate in [mode] if mode else _ASSUMED_MODE:
        keeps = {unit.name: unit.keep for unit in units if candidate == "neon" and unit.keep != 1}
        assumed = [] if model.root is not None else [_ASSUMED_ARCHITECTURE]
        if model.compat_mode is None:
            assumed.append(
                f"dropout mode {asked!r}, as asked for" if asked else _ASSUMED_MODE[candidate]
            )
        metadata = Metadata(
            tag=f"neon-{digest[:12]}",
            architecture=Architecture(
                "allcnn_c", kept, widths=(units[0].width, units[len(_STAGE)].width)
            ),
            classes=_class_names(kept),
            provenance={**facts, "dropout_folded": keeps, "assumed": assumed},
        )
        tensors = {}
        for unit in units:
            weight, bias = _fold(unit, keeps.get(unit.name, 1.0))
            is_last = unit is units[-1]
            tensors[f"{unit.name}.weight"] = weight[:kept].clone() if is_last else weight
            tensors[f"{unit.name}.bias"] = bias[:kept].clone() if is_last else bias
        found.append(Candidate(tensors, metadata))
    return found


def _class_names(count: int) -> tuple[str, ...]:
    """CIFAR-10's names for neon's outputs; 16 are its ten classes and padding."""
    if count == PADDED_OUTPUTS:
        return CIFAR10_CLASSES + tuple(f"padding_{index}" for index in range(10, count))
    if count == len(CIFAR10_CLASSES):
        return CIFAR10_CLASSES
    return tuple(f"class_{index}" for index in range(count))


# Recognizing it.


class _Unit(NamedTuple):
    """A convolution as found, and what neon does before and after it."""

    name: str
    convolution: neon.RescuedLayer
    bias: neon.RescuedLayer | None
    norm: neon.RescuedLayer | None
    keep: float

    @property
    def width(self) -> int:
        """The number of its outputs."""
        return len(self.convolution.arrays["weight"])


def _with_network(model: neon.NeonModel) -> neon.NeonModel:
    """A file of neon 1.1.5 or older with the network that it leaves out, taken for All-CNN-C's."""
    convolutions = [layer for layer in model.layers if _early_kind(layer) == "Convolution"]
    if len(convolutions) != len(_PLACES):
        raise _other_network(f"it has {len(convolutions)} convolutions, not {len(_PLACES)}")
    places = dict(zip(map(id, convolutions), _PLACES, strict=True))
    activation = neon.Layer("Activation", {"transform": {"type": "Rectlin", "config": {}}})
    layers: list[neon.Layer] = []
    channels = CHANNELS
    for layer in model.layers:
        place = places.get(id(layer))
        if place is None:
            layers.append(dataclasses.replace(layer, type=_early_kind(layer)))
            continue
        if layers:
            layers.append(activation)
        if place.keep is not None:
            layers.append(neon.Layer("Dropout", {"keep": place.keep}))
        weight, rows = layer.params.get("W"), channels * place.kernel**2
        if weight is None or weight.ndim != 2 or len(weight) != rows:
            raise _other_network(f"{place.name} would have {quote(weight)}, not {rows} rows")
        channels = weight.shape[1]
        config: dict[str, neon.Tree] = {
            "fshape": (place.kernel, place.kernel, channels),
            "strides": place.stride,
            "padding": place.padding,
        }
        layers.append(dataclasses.replace(layer, type="Convolution", config=config))
    layers += [
        activation,
        neon.Layer("Pooling", {"fshape": "all", "op": "avg"}),
        neon.Layer("Activation", {"transform": {"type": "Softmax", "config": {}}}),
    ]
    return dataclasses.replace(model, root=neon.Layer("Sequential", {}, layers=tuple(layers)))


def _early_kind(layer: neon.Layer) -> str:
    """What a record of neon 1.1 or older holds; one that does not say has a bias or a kernel."""
    if layer.kind != neon.UNKNOWN or layer.params.keys() != {"W"}:
        return layer.kind
    return "Bias" if layer.params["W"].shape[1:] == (1,) else "Convolution"


def _find_units(model: neon.NeonModel) -> list[_Unit]:
    """The nine convolutions, once everything between them has proved to be All-CNN-C's."""
    root = neon.rescue(model).root
    if root.kind != "Sequential" or root.not_understood:
        raise _other_network(f"its outermost container is a {root.type}")
    layers = _Layers(root.layers)
    units: list[_Unit] = []
    for place in _PLACES:
        units.append(_find_unit(layers, place, units[-1].width if units else CHANNELS))
    pooling = layers.take("Pooling", operation="avg")
    if pooling.setting("kernel") != "all":  # then its stride has no effect
        size = SIZE // math.prod(place.stride for place in _PLACES)
        layers.require(pooling, kernel=[size, size], padding=[0, 0])
    layers.take("Activation", function="Softmax", axis=0)
    layers.end()
    if model.input_shape not in (None, (CHANNELS, SIZE, SIZE)):
        raise _other_network(f"its input has shape {model.input_shape}")
    widths = [unit.width for unit in units[:-1]]
    stages = [widths[0]] * len(_STAGE) + [widths[len(_STAGE)]] * (len(_STAGE) + len(HEAD))
    if widths != stages:
        raise _other_network(f"its widths are {widths}; All-CNN-C has two, 3 and 5 times")
    return units


def _find_unit(layers: "_Layers", place: _Place, channels: int) -> _Unit:
    keep = 1.0 if place.keep is None else layers.take("Dropout").setting("keep")
    convolution = layers.take(
        "Convolution",
        "Convolution_bias",
        kernel=[place.kernel] * 2,
        stride=[place.stride] * 2,
        padding=[place.padding] * 2,
        dilation=[1, 1],
        in_channels=channels,
    )
    width = convolution.setting("out_channels")
    bias = convolution if convolution.setting("bias") else layers.take_if("Bias", features=width)
    norm = layers.take_if("BatchNorm", features=width)
    layers.take("Activation", function="Rectlin", slope=0)
    return _Unit(place.name, convolution, bias, norm, keep)


def _values(layer: neon.RescuedLayer, name: str) -> npt.NDArray[np.floating[Any]]:
    array = layer.arrays.get(name)
    if array is None or array.dtype.kind != "f":
        found = "none" if array is None else quote(array)
        raise _other_network(f"{layer.name} has {found} in place of its {name}")
    if not np.isfinite(array).all():
        raise NeonError(f"damaged: the {name} of {layer.name} has values that are not finite")
    return array  # type: ignore[return-value]  # floats, as was just seen


class _Layers:
    """The layers of a network in order, each compared with the one that All-CNN-C has there."""

    def __init__(self, layers: tuple[neon.RescuedLayer, ...]) -> None:
        self._layers = layers
        self._taken = 0

    def take(self, *kinds: str, **settings: object) -> neon.RescuedLayer:
        """The next layer, of one of these classes and with these settings.

        Raises:
            NotAllCNNError: It is another.
        """
        layer = self.take_if(*kinds, **settings)
        if layer is not None:
            return layer
        found = "missing"
        if self._taken < len(self._layers):
            found = self._layers[self._taken].type
        raise _other_network(f"layer {self._taken} is {found}; All-CNN-C has a {kinds[0]} there")

    def take_if(self, *kinds: str, **settings: object) -> neon.RescuedLayer | None:
        """The next layer if it is of one of these classes, which must then have these settings."""
        if self._taken == len(self._layers) or self._layers[self._taken].kind not in kinds:
            return None
        layer = self._layers[self._taken]
        self._taken += 1
        if layer.not_understood is not None:
            raise _other_network(f"{layer.name} is unusual: {layer.not_understood}")
        self.require(layer, **settings)
        return layer

    def require(self, layer: neon.RescuedLayer, **settings: object) -> None:
        for name, expected in settings.items():
            if (found := layer.setting(name)) != expected:
                raise _other_network(
                    f"{layer.name} has the {name} {found}; All-CNN-C has {expected} there"
                )

    def end(self) -> None:
        if self._taken < len(self._layers):
            found = self._layers[self._taken].type
            raise _other_network(f"it goes on with {found} where All-CNN-C ends")


def _other_network(difference: str) -> NotAllCNNError:
    return NotAllCNNError(f"a neon model, but not All-CNN-C: {difference}")


# Folding.


def _fold(unit: _Unit, keep: float) -> tuple[Tensor, Tensor]:
    """Weight and bias of one plain convolution that does all that the unit does."""
    weight = _values(unit.convolution, "weight")
    scale, bias = np.ones(unit.width), np.zeros(unit.width)
    if unit.bias is not None:
        bias = _values(unit.bias, "bias").astype(np.float64)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):  # reported below
        if unit.norm is not None:
            gamma, beta, mean, variance = (
                _values(unit.norm, name).astype(np.float64)
                for name in ("weight", "bias", "running_mean", "running_var")
            )
            if variance.min() < 0:
                raise NeonError(f"damaged: a variance in {unit.norm.name} is negative")
            scale = gamma / np.sqrt(variance + unit.norm.setting("eps"))
            bias = (bias - mean) * scale + beta
        factor = keep * scale  # mostly 1, and copying is cheaper than multiplying
        if not (factor == 1).all():
            weight = weight * factor[:, None, None, None]
        folded = np.array(weight, np.float32, order="C"), bias.astype(np.float32)
    if not all(np.isfinite(values).all() for values in folded):
        raise NeonError(f"damaged: the numbers of {unit.name} are too large for float32")
    weight_tensor, bias_tensor = map(torch.from_numpy, folded)
    return weight_tensor, bias_tensor
