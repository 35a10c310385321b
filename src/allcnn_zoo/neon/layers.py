"""neon's layer classes in PyTorch's terms: the meaning of settings, the layout of arrays.

neon stores activations as (features, batch) and every weight as a matrix. Here they get PyTorch's
layouts, for example (outputs, inputs, height, width) for convolutions. Settings that a file leaves
out are filled in.
"""

import dataclasses
import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias, TypeVar

import numpy as np

from ..errors import NeonError, quote
from .model import Component, Layer
from .unpickle import Array, Tree

Settings: TypeAlias = dict[str, Any]
Arrays: TypeAlias = Mapping[str, Array]
C = TypeVar("C", bound=Component)

_LARGEST_SIZE = 1 << 16  # of a kernel, stride or padding: far beyond use, and nothing can overflow


class NotUnderstoodError(NeonError):
    """A layer has an unknown class or setting."""


@dataclass(frozen=True)
class LayerClass:
    """The translation of one of neon's layer classes.

    Attributes:
        options: The constructor arguments that affect inference, with neon's defaults.
        settings: Function from a layer, its translated arrays, and its file's mode ("neon" or
            "caffe") to settings as JSON values.
        arrays: Function from a layer and its arrays (parameters or their optimizer states) to
            arrays in PyTorch's layouts, by PyTorch's names; views where possible.
        params: neon's names for the arrays that `arrays` translates.
    """

    options: Mapping[str, Tree] = dataclasses.field(default_factory=dict)
    settings: Callable[[Layer, Arrays, str], Settings] = lambda *_: {}
    arrays: Callable[[Layer, Arrays], dict[str, Array]] = lambda *_: {}
    params: tuple[str, ...] = ()


_WITHOUT_EFFECT = frozenset(  # on what a layer computes at inference
    {
        *("name", "init", "init_inner", "bias", "parallelism"),  # before training
        *("bsum", "rho", "alphas", "update", "reset_cells"),  # during training
    }
)


@dataclass(frozen=True)
class Translation:
    """A layer, without those inside it, in PyTorch's terms.

    Attributes:
        problem: Why it is not (fully) understood; None if it is.
        settings: Settings of its arithmetic; None if its class or a setting is not understood.
        arrays: Its parameters.
        slots: Optimizer states like `arrays`, per slot; None if they do not match the parameters.
        untranslated: neon's names for its other parameters.
    """

    problem: str | None
    untranslated: list[str]
    settings: Settings | None = None
    arrays: Arrays = dataclasses.field(default_factory=dict)
    slots: list[Arrays] | None = None


def translate(layer: Layer, mode: str) -> Translation:
    """Translate a layer of a file in this mode, "neon" or "caffe".

    Raises:
        NeonError: The shape of an array contradicts the layer.
    """
    layer_class = LAYER_CLASSES.get(layer.kind)
    if layer_class is None:
        return Translation(f"the class {layer.type} is not known", [*layer.params])
    filled = _with_defaults(layer, layer_class.options)
    try:
        arrays = layer_class.arrays(filled, layer.params)
        settings = layer_class.settings(filled, arrays, mode)
    except NotUnderstoodError as error:
        return Translation(str(error), [*layer.params])
    slots = _slots(layer, [name for name in layer_class.params if name not in _RUNNING])
    extra = sorted(layer.params.keys() - {*layer_class.params})
    unknown = sorted(layer.config.keys() - layer_class.options.keys() - _WITHOUT_EFFECT) + extra
    return Translation(
        f"its {quote(unknown[0])} is not known" if unknown else None,
        extra,
        settings,
        arrays,
        None if slots is None else [layer_class.arrays(filled, states) for states in slots],
    )


def _with_defaults(component: C, defaults: Mapping[str, Tree]) -> C:
    return dataclasses.replace(component, config={**defaults, **component.config})


def _slots(layer: Layer, trained: list[str]) -> list[dict[str, Array]] | None:
    """The optimizer's states of each parameter, per slot; None if they do not match.

    Slot 0 is the velocity or first moment.
    """
    groups = (layer.states,) if len(trained) == 1 else layer.states or ((),) * len(trained)
    if len(groups) != len(trained):
        return None
    shapes = {name: array.shape for name, array in layer.params.items()}
    slots: defaultdict[int, dict[str, Array]] = defaultdict(dict)
    for name, group in zip(trained, groups, strict=True):
        if isinstance(group, np.ndarray):  # where its slots should be
            return None
        for slot, state in enumerate(group):
            if not isinstance(state, np.ndarray) or state.shape != shapes.get(name):
                return None
            slots[slot][name] = state
    return [*slots.values()]


# Convolution, in two dimensions or three. `fshape` is (height, width, outputs), after the depth.


def _kernel_settings(layer: Layer, arrays: Arrays, _: str) -> Settings:
    *kernel, outputs = _extents(layer, "TRSK", "the shape of its kernels")
    weight = arrays.get("weight")
    return {
        "in_channels": None if weight is None else weight.shape[0 if _is_transposed(layer) else 1],
        "out_channels": outputs,
        "kernel": kernel,
        "stride": _per_axis(layer, "strides", "str", [1] * len(kernel)),
        "padding": _per_axis(layer, "padding", "pad", [0] * len(kernel), least=0),
        "dilation": _per_axis(layer, "dilation", "dil", [1] * len(kernel)),
        "bias": layer.kind == "Convolution_bias",
    }


def _kernel_arrays(layer: Layer, arrays: Arrays) -> dict[str, Array]:
    """From (channels * height * width, others) to (others, channels, height, width).

    The channels are the inputs of a convolution, but the outputs of a deconvolution, which neon
    treats as the gradient of a convolution. PyTorch orders the kernels of both in the same way.
    """
    *kernel, outputs = _extents(layer, "TRSK", "the shape of its kernels")
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


def _is_transposed(layer: Layer) -> bool:
    return layer.kind == "Deconvolution"


# Affine layers.


def _linear_settings(layer: Layer, arrays: Arrays, _: str) -> Settings:
    outputs, inputs = arrays["weight"].shape if arrays else (_count(layer, "nout"), None)
    return {"in_features": inputs, "out_features": outputs}


def _table_arrays(layer: Layer, arrays: Arrays) -> dict[str, Array]:
    """The matrix of an affine layer or a lookup table, whose layout is the same in PyTorch."""
    if "W" not in arrays:
        return {}
    weight = _matrix(layer, arrays["W"])
    for option, axis in ("nout", 0), ("vocab_size", 0), ("embedding_dim", 1):
        _check_count(layer, weight, option, weight.shape[axis])
    return {"weight": weight}


def _lookup_settings(layer: Layer, arrays: Arrays, _: str) -> Settings:
    words, size = _count(layer, "vocab_size"), _count(layer, "embedding_dim")
    if arrays:
        words, size = arrays["weight"].shape
    padding = _count(layer, "pad_idx")
    return {"num_embeddings": words, "embedding_dim": size, "padding_idx": padding}


def _features(arrays: Arrays) -> int | None:
    """How many features there are, by the first of some arrays with a value for each."""
    return next((array.size for array in arrays.values()), None)


def _norm_settings(layer: Layer, arrays: Arrays, _: str) -> Settings:
    if layer.config["binary"] is not False:
        raise NotUnderstoodError("it shifts bits instead of multiplying (binary)")
    momentum = 1 - _number(layer, "rho")
    return {"features": _features(arrays), "eps": _number(layer, "eps"), "momentum": momentum}


_RUNNING = {"gmean": "running_mean", "gvar": "running_var"}
_NORM_NAMES = {"beta": "bias", "gamma": "weight", **_RUNNING}


def _norm_arrays(layer: Layer, arrays: Arrays) -> dict[str, Array]:
    known = {ours: arrays[name] for name, ours in _NORM_NAMES.items() if name in arrays}
    return {name: _vector(layer, array, _features(known)) for name, array in known.items()}


# Recurrent layers. neon stacks everything in one matrix of (inputs + units + 1) rows.

_LSTM_GATES = [0, 1, 3, 2]  # neon has input, forget, output, cell; PyTorch the cell before output
_GATES = {  # neon's gates in PyTorch's order
    "Recurrent": [0],
    "LSTM": _LSTM_GATES,
    "GRU": [0, 1, 2],  # both have reset, update, new
    "BiRNN": [0],
    "BiLSTM": _LSTM_GATES,
}


def _recurrent_settings(layer: Layer, arrays: Arrays, _: str) -> Settings:
    settings: Settings = {
        "input_size": arrays["weight_ih"].shape[1] if arrays else None,
        "hidden_size": arrays["weight_hh"].shape[1] if arrays else _count(layer, "output_size"),
        "activation": _function(layer, "activation"),
    }
    if len(_GATES[layer.kind]) > 1:
        settings["gate_activation"] = _function(layer, "gate_activation")
    if _is_bidirectional(layer):
        settings["split_inputs"] = layer.config["split_inputs"] is True
    return settings


def _recurrent_arrays(layer: Layer, arrays: Arrays) -> dict[str, Array]:
    """The weights of one or both directions, their gates in PyTorch's order."""
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


def _dropout_settings(layer: Layer, _: Arrays, mode: str) -> Settings:
    keep = _number(layer, "keep")
    if not 0 < keep <= 1:
        raise NotUnderstoodError(f"it keeps {keep} of its inputs")
    return {"keep": keep, "mode": "caffe" if _is_caffe(mode) else "neon"}


def _pooling_settings(layer: Layer, _: Arrays, mode: str) -> Settings:
    operation, window = _choice(layer, "op", ("max", "avg")), layer.config["fshape"]
    rounding = "ceil" if _is_caffe(mode) else "floor"
    if isinstance(window, str) and window == "all":
        return {"operation": operation, "kernel": "all"}
    kernel = _extents(layer, "TRS", "its window")
    return {
        "operation": operation,
        "kernel": kernel,
        "stride": _per_axis(layer, "strides", "str", kernel),
        "padding": _per_axis(layer, "padding", "pad", [0] * len(kernel), least=0),
        "rounding": rounding,
    }


def _normalization_settings(layer: Layer, _: Arrays, __: str) -> Settings:
    size = _sizes([layer.config["depth"]])
    if not size:
        raise NotUnderstoodError(f"its depth is {quote(layer.config['depth'])}")
    alpha, beta = _number(layer, "ascale"), _number(layer, "bpower")
    return {"size": size[0], "alpha": alpha, "beta": beta, "k": 1.0}


_FUNCTIONS: Mapping[str, Mapping[str, Tree]] = {  # with their arguments' defaults
    "Identity": {},
    "Rectlin": {"slope": 0},
    "Rectlinclip": {"slope": 0, "xcut": 20.0},
    "Explin": {"alpha": 1.0},
    "Tanh": {},
    "Logistic": {},
    "Softmax": {"axis": 0},
    "PixelwiseSoftmax": {},
    "Normalizer": {"divisor": 128.0},
}
_FUNCTION_OPTIONS_WITHOUT_EFFECT = frozenset({"name", "epsilon", "shortcut", "c"})


def _function(layer: Layer, option: str) -> Settings:
    """An activation function: its neon class as ``function``, and its arguments."""
    if layer.config[option] is None:
        raise NotUnderstoodError(f"the file does not give its {option}")
    function = layer.component(option)
    defaults = _FUNCTIONS.get(function.kind)
    if defaults is None:
        raise NotUnderstoodError(f"its {option} is {function.type}")
    if unknown := function.config.keys() - defaults.keys() - _FUNCTION_OPTIONS_WITHOUT_EFFECT:
        raise NotUnderstoodError(f"its {option} has the argument {quote(min(unknown))}")
    function = _with_defaults(function, defaults)
    return {"function": function.kind} | {name: _number(function, name) for name in defaults}


# Values out of a file.


def _sizes(value: object, least: int = 1) -> list[int]:
    """The value if it is a list of sizes, otherwise an empty list."""
    items = value if isinstance(value, list | tuple) else []
    sizes = [item for item in items if type(item) is int and least <= item <= _LARGEST_SIZE]
    return sizes if len(sizes) == len(items) else []


def _extents(layer: Layer, axes: str, meaning: str) -> list[int]:
    """The sizes that `fshape` gives along these axes; only volumes have the first one."""
    shape: object = layer.config["fshape"]
    if type(shape) is int:
        shape = [shape, shape]
    if isinstance(shape, dict) and shape.keys() <= set(axes):
        shape = [size for axis in axes if (size := shape.get(axis)) is not None]
    sizes = _sizes(shape)
    if len(axes) - len(sizes) not in (0, 1):
        raise NotUnderstoodError(f"{meaning} is {quote(layer.config['fshape'])}")
    return sizes


def _per_axis(
    layer: Layer, option: str, prefix: str, default: list[int], *, least: int = 1
) -> list[int]:
    """A setting like strides for each axis, depth first. One integer is for height and width."""
    value = layer.config[option]
    if type(value) is int:
        value = {f"{prefix}_h": value, f"{prefix}_w": value}
    axes = [f"{prefix}_{axis}" for axis in "dhw"[-len(default) :]]
    if isinstance(value, list | tuple) and len(value) == len(axes):
        value = dict(zip(axes, value, strict=True))
    if value is None:
        return default
    if isinstance(value, dict) and value.keys() <= {*axes, f"{prefix}_d"}:
        given = zip((value.get(axis) for axis in axes), default, strict=True)
        if sizes := _sizes([size if one is None else one for one, size in given], least):
            return sizes
    raise NotUnderstoodError(f"its {option} is {quote(layer.config[option])}")


def _count(layer: Layer, option: str) -> int | None:
    value = layer.config.get(option)
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
    value = layer.config[option]
    if isinstance(value, str) and value in choices:
        return value
    raise NotUnderstoodError(f"its {option} is {quote(value)}")


def _number(component: Component, option: str) -> float:
    value = component.config[option]
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e30:
        return float(value)
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


_KERNEL = LayerClass(
    {"fshape": None, "strides": 1, "padding": 0, "dilation": 1},
    _kernel_settings,
    _kernel_arrays,
    ("W",),
)
_RECURRENT = LayerClass(
    dict.fromkeys(("output_size", "activation", "gate_activation", "split_inputs")),
    _recurrent_settings,
    _recurrent_arrays,
    ("W",),
)
_ACTIVATION = LayerClass({"transform": None}, lambda layer, *_: _function(layer, "transform"))
_MERGE = LayerClass(
    {"merge": None},
    lambda layer, *_: {"merge": _choice(layer, "merge", ("depth", "stack", "recurrent"))},
)

LAYER_CLASSES: Mapping[str, LayerClass] = {
    "Convolution": _KERNEL,
    "Convolution_bias": dataclasses.replace(_KERNEL, params=("W", "weight_bias")),
    "Deconvolution": _KERNEL,
    "Linear": LayerClass({"nout": None}, _linear_settings, _table_arrays, ("W",)),
    "Bias": LayerClass(
        settings=lambda _, arrays, __: {"features": _features(arrays)},
        arrays=lambda layer, arrays: {"bias": _vector(layer, arrays["W"])} if "W" in arrays else {},
        params=("W",),
    ),
    "BatchNorm": LayerClass(
        {"eps": 1e-3, "rho": 0.9, "binary": False}, _norm_settings, _norm_arrays, (*_NORM_NAMES,)
    ),
    "LookupTable": LayerClass(
        dict.fromkeys(("vocab_size", "embedding_dim", "pad_idx")),
        _lookup_settings,
        _table_arrays,
        ("W",),
    ),
    **dict.fromkeys(_GATES, _RECURRENT),
    "Dropout": LayerClass({"keep": 0.5}, _dropout_settings),
    "Pooling": LayerClass(  # no strides: the window's size
        {"fshape": None, "op": "max", "strides": None, "padding": 0}, _pooling_settings
    ),
    "LRN": LayerClass(
        # in spite of their names, alpha and beta belong to backpropagation
        {"depth": None, "ascale": 1, "bpower": 1, "alpha": None, "beta": None},
        _normalization_settings,
    ),
    **dict.fromkeys(("Activation", "DataTransform"), _ACTIVATION),
    **dict.fromkeys(("MergeBroadcast", "MergeMultistream"), _MERGE),
    **dict.fromkeys(
        (
            *("Sequential", "MergeSum", "SingleOutputTree", "SkipNode", "BranchNode"),
            *("RecurrentSum", "RecurrentMean", "RecurrentLast", "BiSum"),
        ),
        LayerClass(),
    ),
}
"""The layer classes that are understood, by neon's name."""
