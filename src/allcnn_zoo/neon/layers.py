"""neon's layer classes in PyTorch's terms: what their settings mean, how their arrays are laid out.

neon keeps activations as (features, batch) and every weight as a matrix; here convolutions become
(outputs, inputs, height, width), and so on, as PyTorch has them. Settings that a file leaves out
are filled in.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

import numpy as np

from ..errors import NeonError, quote
from .model import Component, Layer
from .unpickle import Array

Settings: TypeAlias = dict[str, Any]
Arrays: TypeAlias = Mapping[str, Array]

_LARGEST_SIZE = 1 << 16  # of a kernel, stride or padding: far beyond use, and nothing can overflow


class NotUnderstoodError(NeonError):
    """A layer has a class or a setting whose meaning is not known here."""


@dataclass(frozen=True)
class LayerClass:
    """What is known about one of neon's layer classes.

    Attributes:
        settings: From a layer, and its file's mode ("neon" or "caffe"), to settings fit for JSON.
        options: Constructor arguments that bear on inference, all of which `settings` heeds.
        arrays: From a layer and any of its arrays (parameters, or as many optimizer states) to
            arrays in PyTorch's layouts, under PyTorch's names; views where possible.
        params: neon's names for the arrays that `arrays` translates.
        trained: Those of them that have optimizer states, in the states' order.
    """

    settings: Callable[[Layer, str], Settings]
    options: frozenset[str] = frozenset()
    arrays: Callable[[Layer, Arrays], dict[str, Array]] = lambda _layer, _arrays: {}
    params: frozenset[str] = frozenset()
    trained: tuple[str, ...] = ("W",)


WITHOUT_EFFECT = frozenset(
    {
        *("name", "init", "init_inner", "bias", "parallelism"),  # before training
        *("bsum", "rho", "alphas", "update", "reset_cells"),  # during training
    }
)
"""Constructor arguments that do not change what a layer computes at inference."""


# Convolution, in two dimensions or three. `fshape` is (height, width, outputs), after the depth.


def _kernel_settings(layer: Layer, _: str) -> Settings:
    *kernel, outputs = _kernel_shape(layer)
    weight = _kernel_arrays(layer, layer.params).get("weight")
    inputs = None if weight is None else weight.shape[0 if _is_transposed(layer) else 1]
    return {
        "in_channels": inputs,
        "out_channels": outputs,
        "kernel": kernel,
        "stride": _per_axis(layer, "strides", "str", [1] * len(kernel)),
        "padding": _per_axis(layer, "padding", "pad", [0] * len(kernel), least=0),
        "dilation": _per_axis(layer, "dilation", "dil", [1] * len(kernel)),
        "bias": layer.kind == "Convolution_bias",
    }


def _kernel_arrays(layer: Layer, arrays: Arrays) -> dict[str, Array]:
    """From (channels * height * width, others) to (others, channels, height, width).

    The channels are the inputs of a convolution; of a deconvolution, which neon understands as the
    gradient of a convolution, the outputs. PyTorch orders the kernels of both in that same way.
    """
    *kernel, outputs = _kernel_shape(layer)
    translated = {}
    if "W" in arrays:
        weight = _matrix(layer, arrays["W"])
        channels, rest = divmod(weight.shape[0], math.prod(kernel))
        if rest or outputs != (channels if _is_transposed(layer) else weight.shape[1]):
            _contradiction(layer, weight, f"kernels of shape {(*kernel, outputs)}")
        kernels = weight.reshape(channels, *kernel, weight.shape[1])
        translated["weight"] = np.moveaxis(kernels, -1, 0)
    if "weight_bias" in arrays:
        translated["bias"] = _vector(layer, arrays["weight_bias"], outputs)
    return translated


def _kernel_shape(layer: Layer) -> list[int]:
    shape = layer.option("fshape")
    if isinstance(shape, dict):
        shape = [size for axis in "TRSK" if (size := shape.get(axis)) is not None]
    sizes = _sizes(shape)
    if len(sizes) not in (3, 4):
        raise NotUnderstoodError(f"the shape of its kernels is {quote(shape)}")
    return sizes


def _is_transposed(layer: Layer) -> bool:
    return layer.kind == "Deconvolution"


# Affine layers.


def _linear_settings(layer: Layer, _: str) -> Settings:
    weight = _table_arrays(layer, layer.params).get("weight")
    inputs, outputs = (None, _count(layer, "nout")) if weight is None else weight.shape[::-1]
    return {"in_features": inputs, "out_features": outputs}


def _table_arrays(layer: Layer, arrays: Arrays) -> dict[str, Array]:
    """The one matrix of an affine layer or a lookup table, which PyTorch keeps as neon does."""
    if "W" not in arrays:
        return {}
    weight = _matrix(layer, arrays["W"])
    for option, axis in ("nout", 0), ("vocab_size", 0), ("embedding_dim", 1):
        _check_count(layer, weight, option, weight.shape[axis])
    return {"weight": weight}


def _bias_settings(layer: Layer, _: str) -> Settings:
    bias = _bias_arrays(layer, layer.params).get("bias")
    return {"features": None if bias is None else len(bias)}


def _bias_arrays(layer: Layer, arrays: Arrays) -> dict[str, Array]:
    return {"bias": _vector(layer, arrays["W"])} if "W" in arrays else {}


_NORM_NAMES = {
    "gamma": "weight",
    "beta": "bias",
    "gmean": "running_mean",
    "gvar": "running_var",
}


def _norm_settings(layer: Layer, _: str) -> Settings:
    if layer.option("binary") is not False:
        raise NotUnderstoodError("it shifts bits instead of multiplying (binary)")
    features = [len(array) for array in _norm_arrays(layer, layer.params).values()]
    return {
        "features": features[0] if features else None,
        "eps": _number(layer, "eps"),
        "momentum": 1 - _number(layer, "rho"),
    }


def _norm_arrays(layer: Layer, arrays: Arrays) -> dict[str, Array]:
    known = {name: array for name, array in arrays.items() if name in _NORM_NAMES}
    size = next(iter(known.values())).size if known else None
    return {_NORM_NAMES[name]: _vector(layer, array, size) for name, array in known.items()}


def _lookup_settings(layer: Layer, _: str) -> Settings:
    weight = _table_arrays(layer, layer.params).get("weight")
    stated = _count(layer, "vocab_size"), _count(layer, "embedding_dim")
    words, size = stated if weight is None else weight.shape
    padding = _count(layer, "pad_idx")
    return {"num_embeddings": words, "embedding_dim": size, "padding_idx": padding}


# Recurrent layers. neon stacks everything in one matrix of (inputs + units + 1) rows.

_LSTM_GATES = [0, 1, 3, 2]  # neon has input, forget, output, cell; PyTorch the cell before output
_GATES = {  # neon's gates in PyTorch's order
    "Recurrent": [0],
    "LSTM": _LSTM_GATES,
    "GRU": [0, 1, 2],  # both have reset, update, new
    "BiRNN": [0],
    "BiLSTM": _LSTM_GATES,
}


def _recurrent_settings(layer: Layer, _: str) -> Settings:
    arrays = _recurrent_arrays(layer, layer.params)
    settings: Settings = {
        "input_size": arrays["weight_ih"].shape[1] if arrays else None,
        "hidden_size": arrays["weight_hh"].shape[1] if arrays else _count(layer, "output_size"),
        "activation": _function(layer, "activation"),
    }
    if len(_GATES[layer.kind]) > 1:
        settings["gate_activation"] = _function(layer, "gate_activation")
    if _is_bidirectional(layer):
        settings["split_inputs"] = layer.option("split_inputs") is True
    return settings


def _recurrent_arrays(layer: Layer, arrays: Arrays) -> dict[str, Array]:
    """Both directions' weights, as PyTorch orders the gates: input, forget, cell, output."""
    if "W" not in arrays:
        return {}
    weight = _matrix(layer, arrays["W"])
    directions = ("", "_reverse") if _is_bidirectional(layer) else ("",)
    rows, uneven = divmod(len(weight), len(directions))
    order = _GATES[layer.kind]
    units, rest = divmod(weight.shape[1], len(order))
    inputs = rows - units - 1
    if uneven or rest or inputs < 1:
        _contradiction(layer, weight, f"{len(order)} gates")
    _check_count(layer, weight, "output_size", units)
    translated, start = {}, 0
    for name, height in (("weight_ih", inputs), ("weight_hh", units), ("bias", 1)):
        for direction in directions:
            # neon reads these rows, (height, gates * units), as (gates * units, height).
            block = weight[start : start + height].reshape(len(order), -1)[order]
            shape = (-1,) if name == "bias" else (-1, height)
            translated[name + direction] = block.reshape(shape)
            start += height
    return translated


def _is_bidirectional(layer: Layer) -> bool:
    return layer.kind.startswith("Bi")


# Layers without parameters.


def _dropout_settings(layer: Layer, mode: str) -> Settings:
    keep = _number(layer, "keep")
    if not 0 < keep <= 1:
        raise NotUnderstoodError(f"it keeps {keep} of its inputs")
    return {"keep": keep, "mode": "caffe" if _is_caffe(mode) else "neon"}


def _pooling_settings(layer: Layer, mode: str) -> Settings:
    operation, window = _choice(layer, "op", ("max", "avg")), layer.option("fshape")
    rounding = "ceil" if _is_caffe(mode) else "floor"
    if isinstance(window, str) and window == "all":
        return {"operation": operation, "kernel": "all"}
    if type(window) is int:
        window = [window, window]
    if isinstance(window, dict) and window.keys() <= set("TRS"):
        window = [size for axis in "TRS" if (size := window.get(axis)) is not None]
    kernel = _sizes(window)
    if len(kernel) not in (2, 3):
        raise NotUnderstoodError(f"its window is {quote(window)}")
    return {
        "operation": operation,
        "kernel": kernel,
        "stride": _per_axis(layer, "strides", "str", kernel),
        "padding": _per_axis(layer, "padding", "pad", [0] * len(kernel), least=0),
        "rounding": rounding,
    }


def _normalization_settings(layer: Layer, _: str) -> Settings:
    size = _sizes([layer.option("depth")])
    if not size:
        raise NotUnderstoodError(f"its depth is {quote(layer.option('depth'))}")
    return {
        "size": size[0],
        "alpha": _number(layer, "ascale"),
        "beta": _number(layer, "bpower"),
        "k": 1.0,
    }


_FUNCTIONS: Mapping[str, tuple[str, ...]] = {
    "Identity": (),
    "Rectlin": ("slope",),
    "Rectlinclip": ("slope", "xcut"),
    "Explin": ("alpha",),
    "Tanh": (),
    "Logistic": (),
    "Softmax": ("axis",),
    "PixelwiseSoftmax": (),
    "Normalizer": ("divisor",),
}
_FUNCTIONS_WITHOUT_EFFECT = frozenset({"name", "epsilon", "shortcut", "c"})


def _function(layer: Layer, option: str) -> Settings:
    """An activation function: its neon class as ``function``, and its arguments."""
    if option not in layer.config:
        raise NotUnderstoodError(f"the file does not give its {option}")
    function = layer.component(option)
    arguments = _FUNCTIONS.get(function.kind)
    if arguments is None:
        raise NotUnderstoodError(f"its {option} is {function.type}")
    if unknown := function.config.keys() - set(arguments) - _FUNCTIONS_WITHOUT_EFFECT:
        raise NotUnderstoodError(f"its {option} has the argument {quote(min(unknown))}")
    return {"function": function.kind} | {name: _number(function, name) for name in arguments}


# Values out of a file.


def _sizes(value: object, least: int = 1) -> list[int]:
    """A list of sizes; empty if it is anything else."""
    items = value if isinstance(value, list | tuple) else []
    sizes = [item for item in items if type(item) is int and least <= item <= _LARGEST_SIZE]
    return sizes if len(sizes) == len(items) else []


def _per_axis(
    layer: Layer, option: str, prefix: str, default: list[int], *, least: int = 1
) -> list[int]:
    """Strides and the like for each axis, depth first. One integer means height and width."""
    value = layer.option(option)
    if type(value) is int:
        value = {f"{prefix}_h": value, f"{prefix}_w": value}
    if value is None:
        value = {}
    axes = [f"{prefix}_{axis}" for axis in "dhw"[-len(default) :]]
    if isinstance(value, list | tuple) and len(value) == len(axes):
        value = dict(zip(axes, value, strict=True))
    if not isinstance(value, dict) or not value.keys() <= {*axes, f"{prefix}_d"}:
        raise NotUnderstoodError(f"its {option} is {quote(value)}")
    given = [value.get(axis) for axis in axes]
    chosen = [size if one is None else one for one, size in zip(given, default, strict=True)]
    sizes = _sizes(chosen, least)
    if not sizes:
        raise NotUnderstoodError(f"its {option} is {quote(layer.option(option))}")
    return sizes


def _count(layer: Layer, option: str) -> int | None:
    value = layer.option(option)
    if value is None or type(value) is int:
        return value
    raise NotUnderstoodError(f"its {option} is {quote(value)}")


def _check_count(layer: Layer, array: Array, option: str, found: int) -> None:
    stated = _count(layer, option)
    if stated not in (None, found):
        _contradiction(layer, array, f"{option} {stated}")


def _is_caffe(mode: str) -> bool:
    if mode not in ("neon", "caffe"):
        raise NotUnderstoodError(f"the file records the unknown mode {quote(mode)}")
    return mode == "caffe"


def _choice(layer: Layer, option: str, choices: tuple[str, ...]) -> str:
    value = layer.option(option)
    if isinstance(value, str) and value in choices:
        return value
    raise NotUnderstoodError(f"its {option} is {quote(value)}")


def _number(component: Component, option: str) -> float:
    value = component.option(option)
    if type(value) in (int, float) and abs(value) < 1e30:  # type: ignore[arg-type, operator]
        return float(value)  # type: ignore[arg-type]
    raise NotUnderstoodError(f"its {option} is {quote(value)}")


def _matrix(layer: Layer, array: Array) -> Array:
    return array if array.ndim == 2 else _contradiction(layer, array, "a matrix")


def _vector(layer: Layer, array: Array, size: int | None = None) -> Array:
    """One of neon's columns (n, 1) as (n,)."""
    if array.size != max(array.shape, default=0) or size not in (None, array.size):
        _contradiction(layer, array, "a column" if size is None else f"{size} values")
    return array.reshape(-1)


def _contradiction(layer: Layer, array: Array, claim: str) -> NoReturn:
    raise NeonError(f"damaged: a {layer.kind} with {claim} has {quote(array)}")


_WEIGHT = frozenset({"W"})
_KERNEL_OPTIONS = frozenset({"fshape", "strides", "padding", "dilation"})
_RECURRENT = LayerClass(
    _recurrent_settings,
    frozenset({"output_size", "activation", "gate_activation", "split_inputs"}),
    _recurrent_arrays,
    _WEIGHT,
)
_ACTIVATION = LayerClass(lambda layer, _: _function(layer, "transform"), frozenset({"transform"}))
_MERGE = LayerClass(
    lambda layer, _: {"merge": _choice(layer, "merge", ("depth", "stack", "recurrent"))},
    frozenset({"merge"}),
)

LAYER_CLASSES: Mapping[str, LayerClass] = {
    "Convolution": LayerClass(_kernel_settings, _KERNEL_OPTIONS, _kernel_arrays, _WEIGHT),
    "Convolution_bias": LayerClass(
        _kernel_settings,
        _KERNEL_OPTIONS,
        _kernel_arrays,
        frozenset({"W", "weight_bias"}),
        trained=("W", "weight_bias"),
    ),
    "Deconvolution": LayerClass(_kernel_settings, _KERNEL_OPTIONS, _kernel_arrays, _WEIGHT),
    "Linear": LayerClass(_linear_settings, frozenset({"nout"}), _table_arrays, _WEIGHT),
    "Bias": LayerClass(_bias_settings, frozenset(), _bias_arrays, _WEIGHT),
    "BatchNorm": LayerClass(
        _norm_settings,
        frozenset({"eps", "binary"}),
        _norm_arrays,
        frozenset(_NORM_NAMES),
        trained=("beta", "gamma"),
    ),
    "LookupTable": LayerClass(
        _lookup_settings,
        frozenset({"vocab_size", "embedding_dim", "pad_idx"}),
        _table_arrays,
        _WEIGHT,
    ),
    **dict.fromkeys(_GATES, _RECURRENT),
    "Dropout": LayerClass(_dropout_settings, frozenset({"keep"})),
    "Pooling": LayerClass(_pooling_settings, frozenset({"fshape", "op", "strides", "padding"})),
    "LRN": LayerClass(
        # alpha and beta are backpropagation's, in spite of their names
        _normalization_settings,
        frozenset({"depth", "ascale", "bpower", "alpha", "beta"}),
    ),
    "Activation": _ACTIVATION,
    "DataTransform": _ACTIVATION,
    "MergeBroadcast": _MERGE,
    "MergeMultistream": _MERGE,
    **dict.fromkeys(
        (
            *("Sequential", "MergeSum", "SingleOutputTree", "SkipNode", "BranchNode"),
            *("RecurrentSum", "RecurrentMean", "RecurrentLast", "BiSum"),
        ),
        LayerClass(lambda _layer, _mode: {}),
    ),
}
"""The layer classes that are understood, by neon's name."""
