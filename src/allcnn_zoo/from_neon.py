"""From a neon file to our weights: recognize All-CNN, fold dropout, test, record the origin.

`neon` describes the layout of any layer. This module is about All-CNN-C: which layers it has, in
which order, and the linear steps around its convolutions, which are folded into their weights:
dropout's factor at inference, biases and batch normalization.
"""

import dataclasses
import functools
import hashlib
import math
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from . import neon
from .architectures import CHANNELS, CIFAR10_CLASSES, HEAD, SIZE, STAGES, Architecture, Conv
from .checkpoint import Checkpoint, read_metadata, save
from .cifar import sample_images
from .errors import NeonError, NotAllCNNError, printable, quote
from .model import build
from .neon.files import naming
from .preprocessing import get_preprocessing
from .weights import CONVERTER_VERSION, GCN_ZCA, GCN_ZCA_UNREGULARIZED, Metadata

DropoutMode: TypeAlias = Literal["neon", "caffe"]
Floats: TypeAlias = npt.NDArray[np.floating[Any]]

#: Of neon's files: its GPU kernels wanted outputs in multiples of 16.
PADDED_OUTPUTS = 16


def convert_neon(
    source: str | Path,
    destination: str | Path,
    keep_padding: bool = False,
    *,
    dropout_mode: DropoutMode | None = None,
    source_url: str | None = None,
) -> Metadata:
    """Convert neon's All-CNN-C pickle into a weights file; nothing in the pickle is executed.

    The same input gives the same bytes. `read_neon` lists the changes to the weights.

    Args:
        source: neon's file, usually ``*.p``.
        destination: The safetensors file to write, completely or not at all.
        keep_padding: Keep all 16 outputs; by default the six that pad CIFAR-10's ten are dropped.
        dropout_mode: How dropout worked, for a file that does not record it (neon 1.1 and older).
        source_url: Where the file was downloaded from, for the record.

    Returns:
        The header that was written.

    Raises:
        NeonError: The file is not a neon file, holds another network, is not safe, or is
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

    Kernels change from neon's (C*R*S, K) to (K, C, R, S); dropout factors are folded into the next
    convolution, biases and batch normalization into their own, so logits and probabilities equal
    neon's. The header's provenance records all of this. Assumptions about what the file does not
    record are also a warning.

    The weights are tested on labeled images that come with the package, with each of neon's
    preprocessings. The best one is used, and likewise the best kind of dropout if the file does not
    record it. The results are recorded; if the weights do not classify, there is a warning.

    Arguments and errors are those of `convert_neon`; `source` may be the file's bytes.

    Returns:
        float32 tensors by the names of the network's ``state_dict``, and their header.
    """
    found = candidates(
        source, keep_padding=keep_padding, dropout_mode=dropout_mode, source_url=source_url
    )
    # The figures must not depend on the caller's defaults.
    with torch.device("cpu"), torch.autocast("cpu", enabled=False):
        results = self_test(found)
    best = min(results, key=lambda result: result["nll"], default=None)
    tensors, metadata, _ = found[best["candidate"] if best else 0]
    sentences = [*metadata.provenance["assumed"]]
    record = None
    if best is None:
        sentences.append("its classes are not CIFAR-10's, so its preprocessing could not be tested")
    else:
        fits = best["accuracy"] >= _LEAST_ACCURACY and not best["classes_swapped"]
        record = {"images": "training images of CIFAR-10", "fits": fits, "results": results}
        figures = {
            "images": len(sample_images().labels),
            "accuracy": best["accuracy"],
            "nll": best["nll"],
        }
        metadata = dataclasses.replace(
            metadata, preprocessing=best["preprocessing"], metrics={"self_test": figures}
        )
        if not fits:
            sentences.append(
                f"these weights do not classify CIFAR-10: at best {best['accuracy']:.0%} of"
                f" {figures['images']} training images are right, or classes are swapped."
                " They may be random, damaged or for other classes; no published figure holds for"
                " them"
            )
    prefix = "" if isinstance(source, bytes) else f"{printable(source)}: "
    for sentence in sentences:
        warnings.warn(f"{prefix}{sentence}", stacklevel=2)
    provenance = {**metadata.provenance, "self_test": record}
    return tensors, dataclasses.replace(metadata, provenance=provenance)


def candidates(
    source: str | os.PathLike[str] | bytes,
    *,
    keep_padding: bool = False,
    dropout_mode: DropoutMode | None = None,
    source_url: str | None = None,
) -> list[Checkpoint]:
    """The weights that a file may stand for; `read_neon` tests them.

    There is one, unless neither the file (neon 1.1 and older) nor `dropout_mode` says how dropout
    works. Then the second is for neon 1.1.3 and older, in which dropout does nothing at inference.

    The provenance has the keys ``source`` (``url`` and ``sha256``), ``converter_version``,
    ``neon_version``, ``backend``, ``epoch``, ``compat_mode`` (as in the file, None if it does not
    say), ``dropout_folded`` and ``batch_norm_folded`` (convolution to keep probability, or to
    epsilon), ``zero_biases`` (convolutions whose bias was filled in), ``padding_outputs_dropped``
    (their number) and ``assumed`` (sentences). `read_neon` adds ``self_test``: the figures of each
    candidate after each preprocessing.
    """
    data = neon.read_file(source)
    with naming(source):
        model = neon.read_model(data)
        mode = model.compat_mode or dropout_mode
        if dropout_mode not in (None, mode):
            raise NeonError(
                f"the file records dropout mode {quote(mode)}, which is not {dropout_mode!r}"
            )
        units = _find_units(model)
        architecture = _architecture(model, units)
        outputs = architecture.num_classes
        kept = len(CIFAR10_CLASSES) if outputs == PADDED_OUTPUTS and not keep_padding else outputs
        digest = hashlib.sha256(data).hexdigest()
        facts = {
            "source": {"url": source_url, "sha256": digest},
            "converter_version": CONVERTER_VERSION,
            "neon_version": model.version,
            "backend": model.backend,
            "epoch": model.epoch,
            "compat_mode": model.compat_mode,
            "batch_norm_folded": {unit.name: unit.eps for unit in units if unit.eps is not None},
            "zero_biases": [unit.name for unit in units if unit.bias is None],
            "padding_outputs_dropped": outputs - kept,
        }
        found = []
        for candidate in [mode] if mode else _ASSUMED_MODE:
            keeps = {name: keep for name, *_, keep in units if keep != 1 and candidate == "neon"}
            assumed = [] if model.has_network else [_ASSUMED_ARCHITECTURE]
            if model.compat_mode is None:
                assumed.append(
                    f"dropout mode {mode!r}, as requested" if mode else _ASSUMED_MODE[candidate]
                )
            metadata = Metadata(
                tag=f"neon-{digest[:12]}",
                architecture=dataclasses.replace(architecture, num_classes=kept),
                classes=_class_names(kept),
                provenance={**facts, "dropout_folded": keeps, "assumed": assumed},
            )
            tensors: dict[str, Tensor] = {}
            for unit in units:
                count = kept if unit is units[-1] else len(unit.weight)
                tensors |= _fold(unit, keeps.get(unit.name, 1.0), count)
            found.append(Checkpoint(tensors, metadata))
        return found


def rescue_neon(
    source: str | Path, destination: str | Path, *, states: bool = False
) -> Mapping[str, Any]:
    """Write every parameter of any neon model to safetensors; nothing in the pickle is executed.

    Names follow the tree of layers, arrays have PyTorch's layouts, and the header describes the
    network: see `neon.rescue`. To run it, use `neon.to_module`. The same network gives the same
    bytes, whether Python 2 or 3 wrote it.

    Args:
        source: neon's file, usually ``*.p``.
        destination: The safetensors file to write, completely or not at all.
        states: Include the optimizer's states.

    Returns:
        The description that was written.

    Raises:
        NeonError: The file is not a neon model, contradicts itself, is not safe, or is
            `destination` itself.
        OSError: `destination` cannot be written; nothing is left behind.
    """
    _refuse_itself(source, destination)
    model = neon.read_model(source)
    with naming(source):
        network = neon.rescue(model, states=states)
    neon.save_rescued(destination, network)
    return network.description


def _refuse_itself(source: str | Path, destination: str | Path) -> None:
    """Refuse to overwrite the source, which may be the last copy."""
    try:
        is_same = Path(source).samefile(destination)
    except (OSError, ValueError):  # reading or writing reports it
        return
    if is_same:
        raise NeonError(f"{printable(source)} would be overwritten; give OUT another name")


# All-CNN-C has nine convolutions, each followed by a ReLU. Dropout is applied to the input and to
# the output of both stages.

_STAGE = [conv for conv in STAGES["allcnn_c"] if isinstance(conv, Conv)]
_CONVOLUTIONS = [*_STAGE, *_STAGE, *HEAD, Conv(1)]
_NAMES = [name.removesuffix(".weight") for name in Architecture().shapes() if "weight" in name]
_KEEP = {0: 0.8, len(_STAGE): 0.5, 2 * len(_STAGE): 0.5}

_LAST_SIZE = SIZE // math.prod(conv.stride for conv in _CONVOLUTIONS)


def _expected_layers() -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield All-CNN-C's layers: neon's class, and the settings that `neon.rescue` gives it."""
    for index, conv in enumerate(_CONVOLUTIONS):
        if index in _KEEP:
            yield "Dropout", {}
        # neon pads every 3x3 convolution by 1, the last one included; the paper does not pad that.
        settings = {"stride": conv.stride, "padding": conv.kernel // 2, "dilation": 1}
        yield "Convolution", {name: [value, value] for name, value in settings.items()}
        yield "Activation", {"function": "Rectlin", "slope": 0}
    yield "Pooling", {"operation": "avg", "kernel": [_LAST_SIZE] * 2, "padding": [0, 0]}
    yield "Activation", {"function": "Softmax", "axis": 0}


_ASSUMED_ARCHITECTURE = (
    "the file lists parameters without their network (neon 1.1.5 or older); their shapes are "
    "All-CNN-C's, so strides, paddings, ReLUs, pooling and dropout (keep 0.8, 0.5, 0.5) are too"
)
_ASSUMED_MODE = {
    "neon": (
        "the file does not record how dropout works; assumed: as in neon 1.1.4 and later, which "
        "multiply by keep at inference (pass dropout_mode='caffe' for neon 1.1.3 and older)"
    ),
    "caffe": (
        "the file does not record how dropout works; assumed: as in neon 1.1.3 and older, which do "
        "nothing at inference (pass dropout_mode='neon' for neon 1.1.4 and later)"
    ),
}


def _class_names(count: int) -> tuple[str, ...]:
    """The names of the outputs: CIFAR-10's, if they are ten, or ten and padding."""
    if count in (len(CIFAR10_CLASSES), PADDED_OUTPUTS):
        return (*CIFAR10_CLASSES, *(f"padding_{index}" for index in range(10, count)))
    return tuple(f"class_{index}" for index in range(count))


# Recognizing it.


class _Unit(NamedTuple):
    """A convolution of the file, with neon's linear steps before and after it."""

    name: str
    weight: Floats
    bias: Floats | None
    scale: Floats  # of the outputs, by batch normalization
    eps: float | None  # of batch normalization, if there is one
    keep: float  # dropout's factor on the inputs


def _with_kernels(model: neon.NeonModel) -> neon.NeonModel:
    """Read a file of neon 1.1.5 or older, which lists only parameters, as All-CNN-C.

    Dropouts and the shapes of kernels, which the file does not have, are filled in.
    """
    layers, channels, places = [], CHANNELS, iter(enumerate(_CONVOLUTIONS))
    for layer in model.layers:
        kind, config = _early_kind(layer), layer.config
        if kind == "Convolution" and (place := next(places, None)):
            (index, conv), weight = place, layer.params.get("W")
            rows = channels * conv.kernel**2
            if weight is None or weight.ndim != 2 or len(weight) != rows:
                raise _other_network(f"{_NAMES[index]} would have {quote(weight)}, not {rows} rows")
            channels = weight.shape[1]
            config = {
                "fshape": (conv.kernel, conv.kernel, channels),
                "strides": conv.stride,
                "padding": conv.kernel // 2,
            }
            if index in _KEEP:
                layers.append(neon.Layer("Dropout", {"keep": _KEEP[index]}))
        layers.append(dataclasses.replace(layer, type=kind, config=config))
    root = dataclasses.replace(model.root, layers=tuple(layers))
    return dataclasses.replace(model, root=root)


def _early_kind(layer: neon.Layer) -> str:
    """The class of a layer of neon 1.1 or older; one that is not named is a bias or a kernel."""
    if layer.kind != neon.UNKNOWN or layer.params.keys() != {"W"}:
        return layer.kind
    return "Bias" if layer.params["W"].shape[1:] == (1,) else "Convolution"


def _find_units(model: neon.NeonModel) -> list[_Unit]:
    """Find the nine convolutions, and check that the layers between them are All-CNN-C's."""
    network = neon.rescue(model if model.has_network else _with_kernels(model))
    root = network.description
    if neon.kind_of(root) != "Sequential" or root["root_not_understood"]:
        raise _other_network(f"its outermost container is a {root['type']}")
    expected = [*_expected_layers()]
    if not model.has_network:
        expected = [each for each in expected if each[0] in ("Dropout", "Convolution")]
    units: list[_Unit] = []
    keep, before = 1.0, ""
    for layer in root["layers"]:
        kind = neon.kind_of(layer)
        wanted, settings = expected[0] if expected else ("end", {})
        if kind in _FOLDED and before in {*_FOLDED, "Convolution", "Convolution_bias"}:
            settings = {}
        elif kind.removesuffix("_bias") == wanted:
            expected.pop(0)
        else:
            raise _other_network(
                f"{layer['name']} is {layer['type']}; All-CNN-C has its {wanted} there"
            )
        _compare(layer, settings)
        if kind == "Dropout":
            keep = layer["settings"]["keep"]
        elif kind.startswith("Convolution"):
            weight = _values(network, layer, "weight")
            has_bias, count = layer["settings"]["bias"], len(weight)
            bias = _values(network, layer, "bias", count) if has_bias else None
            units.append(_Unit(_NAMES[len(units)], weight, bias, np.ones(count), None, keep))
            keep = 1.0
        elif kind in _FOLDED:
            units[-1] = _extend(units[-1], layer, network)
        before = kind
    if expected:
        raise _other_network(f"it ends where All-CNN-C has its {expected[0][0]}")
    return units


def _architecture(model: neon.NeonModel, units: list[_Unit]) -> Architecture:
    """All-CNN-C of these convolutions' widths; refuse a network that differs in another size."""
    if model.input_shape not in (None, (CHANNELS, SIZE, SIZE)):
        raise _other_network(f"its input has shape {model.input_shape}")
    outputs = [len(unit.weight) for unit in units]
    architecture = Architecture("allcnn_c", outputs[-1], widths=(outputs[0], outputs[len(_STAGE)]))
    for name, weight, *_ in units:
        if weight.shape != (shape := architecture.shapes()[f"{name}.weight"]):
            raise _other_network(
                f"the kernels of {name} have the shape {weight.shape}; All-CNN-C has {shape} there"
            )
    return architecture


def _compare(layer: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    if layer.get("not_understood"):
        raise _other_network(f"{layer['name']} is unusual: {layer['not_understood']}")
    found = dict(layer["settings"])
    if found.get("kernel") == "all":  # then a stride has no effect
        found |= {"kernel": [_LAST_SIZE] * 2, "padding": [0, 0]}
    for name, expected in settings.items():
        if found[name] != expected:
            raise _other_network(
                f"{layer['name']} has the {name} {found[name]}; All-CNN-C has {expected} there"
            )


def _other_network(difference: str) -> NotAllCNNError:
    return NotAllCNNError(f"a neon model, but not All-CNN-C: {difference}")


# Folding.

_FOLDED = {"Bias", "BatchNorm"}  # into the convolution before them


@np.errstate(all="ignore")  # `_fold` reports what is not finite
def _extend(unit: _Unit, layer: Mapping[str, Any], network: neon.RescuedNetwork) -> _Unit:
    """Add to a convolution the bias or batch normalization that follows it."""
    count = len(unit.weight)
    if neon.kind_of(layer) == "Bias":
        bias = _values(network, layer, "bias", count)
        return unit._replace(bias=bias if unit.bias is None else unit.bias + bias)
    gamma, beta, mean, variance = (
        _values(network, layer, name, count)
        for name in ("weight", "bias", "running_mean", "running_var")
    )
    if variance.min() < 0:
        raise NeonError(f"damaged: a variance in {layer['name']} is negative")
    eps = layer["settings"]["eps"]
    factor = gamma / np.sqrt(variance + eps)
    bias = (-mean if unit.bias is None else unit.bias - mean) * factor + beta
    return unit._replace(scale=unit.scale * factor, bias=bias, eps=eps)


def _values(
    network: neon.RescuedNetwork, layer: Mapping[str, Any], name: str, count: int | None = None
) -> Floats:
    """A finite array of a layer, as float64 if it has one value for each of `count` outputs."""
    array = network.arrays_of(layer).get(name)
    if array is None or array.dtype.kind != "f" or count not in (None, len(array)):
        found = "none" if array is None else quote(array)
        raise _other_network(f"{layer['name']} has {found} in place of its {name}")
    if not np.isfinite(array).all():
        raise NeonError(f"damaged: the {name} of {layer['name']} has values that are not finite")
    return cast("Floats", array) if count is None else array.astype(np.float64)


@np.errstate(all="ignore")
def _fold(unit: _Unit, keep: float, count: int) -> dict[str, Tensor]:
    """Fold a unit into one plain convolution with the first `count` of its outputs."""
    weight, factor = unit.weight[:count], keep * unit.scale[:count]
    bias = np.zeros(count) if unit.bias is None else unit.bias[:count]
    if not (factor == 1).all():  # usually it is 1, and multiplying takes longer than copying
        weight = weight * factor[:, None, None, None]
    folded = {
        f"{unit.name}.weight": np.array(weight, np.float32, order="C"),
        f"{unit.name}.bias": bias.astype(np.float32),
    }
    if not all(np.isfinite(values).all() for values in folded.values()):
        raise NeonError(f"damaged: the numbers of {unit.name} are too large for float32")
    return {name: torch.from_numpy(values) for name, values in folded.items()}


# The self-test. neon's files do not record how the training images were whitened, which changed in
# neon 1.5.0. Files of neon 1.1 do not record how dropout worked, either.

_PREPROCESSINGS = (GCN_ZCA, GCN_ZCA_UNREGULARIZED)  # all that neon had for CIFAR-10
# Weights with 75 % accuracy on the test images get at least 70 % on these. Random weights, or those
# with another kernel layout, get 10 to 25 %.
_LEAST_ACCURACY = 0.5
_MICRO_BATCH = 50  # whose activations stay in the processor's cache


@torch.inference_mode()
def self_test(found: Sequence[Checkpoint]) -> list[dict[str, Any]]:
    """Classify the sample images with each candidate after each preprocessing.

    Returns:
        The figures of each pair, JSON values; ``classes_swapped`` are pairs of outputs that would
        be right more often if they were swapped. Empty for a network whose outputs are neither
        CIFAR-10's ten nor neon's ten and padding, because it cannot be tested.
    """
    if found[0].metadata.architecture.num_classes not in (len(CIFAR10_CLASSES), PADDED_OUTPUTS):
        return []
    labels = torch.from_numpy(sample_images().labels)
    results = []
    for preprocessing in _PREPROCESSINGS:
        inputs = _inputs(preprocessing)
        for number, candidate in enumerate(found):
            model = build(*candidate)
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            outputs = torch.cat([model(batch) for batch in torch.split(inputs, _MICRO_BATCH)])
            logits = outputs[:, : len(CIFAR10_CLASSES)].double()
            confusion = torch.bincount(10 * labels + logits.argmax(1), minlength=100).view(10, 10)
            right = confusion.diagonal()
            # How many more images would be right if the outputs of two classes were swapped.
            gain = confusion + confusion.T - right[:, None] - right
            swapped = (gain.triu(1) > 0).nonzero().tolist()
            results.append(
                {
                    "preprocessing": preprocessing,
                    "candidate": number,
                    "accuracy": float(right.sum()) / len(labels),
                    "nll": float(functional.cross_entropy(logits, labels)),
                    "classes_swapped": [[CIFAR10_CLASSES[i] for i in pair] for pair in swapped],
                }
            )
    return results


@functools.cache
@torch.inference_mode()
def _inputs(preprocessing: str) -> Tensor:
    """The preprocessed sample images, channels last."""
    images = torch.from_numpy(sample_images().images)
    whitened: Tensor = get_preprocessing(preprocessing)(images)
    return whitened.contiguous(memory_format=torch.channels_last)
