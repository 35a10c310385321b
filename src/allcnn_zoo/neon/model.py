"""A typed, validated view of a neon model file, of any network and any release of neon.

Since neon 1.2.0 a file holds the whole network: a tree of layer records, each with its class, the
constructor arguments that differ from the class's defaults, its parameters and its optimizer
states. Files of neon 1.0.0 to 1.1.5 hold only a list of parameters, one entry per layer that has
some, and say nothing about how the layers are connected.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn, TypeAlias, cast

import numpy as np

from ..errors import NeonError, quote
from .files import DEFAULT_MAX_BYTES
from .unpickle import Array, Tree, read_pickle, read_pickle_bytes

Shape: TypeAlias = int | tuple["Shape", ...]
States: TypeAlias = tuple["Array | States", ...]

DEFAULTS: Mapping[str, Mapping[str, Tree]] = {
    "Dropout": {"keep": 0.5},
    "Convolution": {"strides": 1, "padding": 0, "dilation": 1},
    "Convolution_bias": {"strides": 1, "padding": 0, "dilation": 1},
    "Deconvolution": {"strides": 1, "padding": 0, "dilation": 1},
    "Pooling": {"op": "max", "strides": None, "padding": 0},  # no strides: the window's size
    "BatchNorm": {"eps": 1e-3, "rho": 0.9, "binary": False},
    "Rectlin": {"slope": 0},
    "Rectlinclip": {"slope": 0, "xcut": 20.0},
    "Explin": {"alpha": 1.0},
    "Softmax": {"axis": 0},
    "Normalizer": {"divisor": 128.0},
    "LRN": {"ascale": 1, "bpower": 1},
}
"""What a constructor argument that bears on inference is when the file leaves it out."""


@dataclass(frozen=True, eq=False)
class Component:
    """An object as neon describes it: its class and the arguments it was made with.

    Attributes:
        type: Dotted class name, such as ``"neon.transforms.activation.Rectlin"``.
        config: Constructor arguments that the file states.
    """

    type: str
    config: Mapping[str, Tree]

    @property
    def kind(self) -> str:
        """The class name alone, such as ``"Rectlin"``."""
        return self.type.rpartition(".")[2]

    def option(self, name: str) -> Tree:
        """A constructor argument, from the file or else its default; None if it has neither."""
        return self.config.get(name, DEFAULTS.get(self.kind, {}).get(name))

    def component(self, name: str) -> "Component":
        """A constructor argument that is itself an object, such as an activation's transform.

        Raises:
            NeonError: The file does not describe an object there.
        """
        return _component(self.config.get(name), f"the {name} of {self.type}")


@dataclass(frozen=True, eq=False)
class Layer(Component):
    """One layer, or a container of layers.

    Attributes:
        params: Parameters by neon's names, in neon's layouts: see neon's layer classes.
        states: Optimizer states, nested as the optimizer keeps them; empty if none were saved.
        layers: The layers inside, for a container.
    """

    params: Mapping[str, Array] = field(default_factory=dict)
    states: States = ()
    layers: tuple["Layer", ...] = ()


@dataclass(frozen=True, eq=False)
class NeonModel:
    """A neon model file.

    Attributes:
        version: Release of neon that wrote it, such as ``"2.3.0"``; None before 1.2.0, and in what
            Nervana's caffe2neon wrote.
        backend: Class of the backend, such as ``"NervanaGPU"``; None before 1.2.0.
        compat_mode: ``"neon"`` or ``"caffe"``; None if the file does not say.
        epoch: ``epoch_index``: the epoch reached, as neon counts; None if it does not say.
        input_shape: Shape of one input, such as ``(3, 32, 32)``; None before 1.2.2.
        layers: The layers in the outermost container; before 1.2.0 those with parameters only.
        optimizer: The optimizer, if the file has one.
        cost: The cost, if the file has one.
        root: The outermost container; None before 1.2.0, when the file does not say how layers are
            connected.
    """

    version: str | None = None
    backend: str | None = None
    compat_mode: str | None = None
    epoch: int | None = None
    input_shape: Shape | None = None
    layers: tuple[Layer, ...] = ()
    optimizer: Component | None = None
    cost: Component | None = None
    root: Layer | None = None


def read_model(path: str | os.PathLike[str], *, max_bytes: int = DEFAULT_MAX_BYTES) -> NeonModel:
    """Read a neon model file without executing anything in it.

    Args:
        path: neon's file, usually ``*.p``.
        max_bytes: Refuse a larger file without reading it.

    Returns:
        The model. Arrays are read-only.

    Raises:
        NeonError: The file cannot be read, or is a pickle but not of a neon model.
        UnsafePickleError: It is not one complete pickle of plain values and arrays.
    """
    return parse_model(read_pickle(path, max_bytes=max_bytes))


def read_model_bytes(data: bytes) -> NeonModel:
    """Read a neon model that is already in memory; see `read_model`."""
    return parse_model(read_pickle_bytes(data))


def parse_model(tree: Tree) -> NeonModel:
    """Give a neon file's tree types.

    Args:
        tree: As from `read_pickle`.

    Returns:
        The model.

    Raises:
        NeonError: A field is missing or of the wrong kind; says which and what it is.
    """
    if not isinstance(tree, dict):
        raise NeonError(f"not a neon model: the pickle holds {quote(tree)}, not a dict")
    if "model" in tree:
        return _parse_with_architecture(tree)
    if "layer_params_states" in tree:
        return _parse_parameters_only(tree)
    keys = ", ".join(quote(key) for key in list(tree)[:8]) or "none"
    raise NeonError(f"not a neon model: no 'model' among its keys ({keys})")


def _parse_with_architecture(tree: Mapping[str | int, Tree]) -> NeonModel:
    backend = _named(tree.get("backend"), "backend")
    root = _layer(tree["model"], "model")
    shape = tree.get("train_input_shape")
    return NeonModel(
        version=_optional_word(tree.get("neon_version"), "neon_version"),
        backend=_optional_word(backend.get("type"), "backend.type"),
        compat_mode=_optional_word(backend.get("compat_mode"), "backend.compat_mode"),
        epoch=_optional_int(tree.get("epoch_index"), "epoch_index"),
        input_shape=None if shape is None else _shape(shape, "train_input_shape"),
        layers=root.layers,
        optimizer=_optional_component(tree.get("optimizer"), "optimizer"),
        cost=_optional_component(tree.get("cost"), "cost"),
        root=root,
    )


def _parse_parameters_only(tree: Mapping[str | int, Tree]) -> NeonModel:
    records = _list(tree["layer_params_states"], "layer_params_states")
    return NeonModel(
        epoch=_optional_int(tree.get("epoch_index"), "epoch_index"),
        layers=tuple(
            _early_layer(record, f"layer_params_states[{index}]")
            for index, record in enumerate(records)
        ),
    )


def _layer(value: Tree, where: str) -> Layer:
    record = _dict(value, where)
    config = dict(_named(record.get("config"), f"{where}.config"))
    children = config.pop("layers", None)
    return Layer(
        type=_word(record.get("type"), f"{where}.type"),
        config=config,
        params=_arrays(record.get("params"), f"{where}.params"),
        states=_states(record.get("states"), f"{where}.states"),
        layers=tuple(
            _layer(child, f"{where}.layers[{index}]")
            for index, child in enumerate(_list(children, f"{where}.layers"))
        ),
    )


_EARLY_BATCH_NORM = ("beta", "gamma", "gmean", "gvar")
UNKNOWN = "Unknown"
"""The class of a layer whose record, of neon 1.1.5 or older, does not say what it is."""


def _early_layer(value: Tree, where: str) -> Layer:
    """A record of neon 1.1.5 and older, with the class and parameter names of later releases.

    Its name is that of the class, such as ``"ConvolutionLayer"``, unless the user gave the layer
    one. neon 1.0 has records without a name, and the array in place of a dict.
    """
    record = _dict(value, where)
    params = record.get("params")
    states = _states(record.get("states"), f"{where}.states")
    if isinstance(params, list | tuple):  # only batch normalization kept its parameters in a list
        if len(params) != len(_EARLY_BATCH_NORM):
            _wrong(params, f"{where}.params", "four arrays")
        arrays = _arrays(dict(zip(_EARLY_BATCH_NORM, params, strict=True)), f"{where}.params")
        return Layer("BatchNorm", {"eps": 1e-6, "rho": 0.99}, arrays, states)
    if isinstance(params, np.ndarray):  # neon 1.0
        return Layer(UNKNOWN, {}, {"W": params}, states)
    named = dict(_dict(params, f"{where}.params"))
    name = named.pop("name", None)
    arrays = _arrays(named, f"{where}.params")
    if isinstance(name, str) and re.fullmatch(r"[A-Za-z]+Layer", name):
        return Layer(name.removesuffix("Layer"), {}, arrays, states)
    return Layer(UNKNOWN, {} if name is None else {"name": name}, arrays, states)


def _wrong(found: Tree, where: str, expected: str) -> NoReturn:
    raise NeonError(f"not a sound neon model: {where} is {quote(found)}, not {expected}")


def _dict(value: Tree, where: str) -> dict[str | int, Tree]:
    return value if isinstance(value, dict) else _wrong(value, where, "a dict")


# What a record leaves out, or has as None, is empty.


def _named(value: Tree, where: str) -> dict[str, Tree]:
    named = {} if value is None else _dict(value, where)
    if not all(isinstance(key, str) for key in named):
        _wrong(value, where, "a dict with text as keys")
    return cast("dict[str, Tree]", named)


def _list(value: Tree, where: str) -> Sequence[Tree]:
    if value is None:
        return ()
    return value if isinstance(value, list | tuple) else _wrong(value, where, "a list")


def _word(value: Tree, where: str) -> str:
    """A class or version: it will be shown and written down, so nothing but harmless letters."""
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9_.+-]{1,200}", value):
        return value
    _wrong(value, where, "a plain name")


def _optional_word(value: Tree, where: str) -> str | None:
    return None if value is None else _word(value, where)


def _optional_int(value: Tree, where: str) -> int | None:
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value.item()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value is None or type(value) is int:
        return value
    _wrong(value, where, "an integer")


def _shape(value: Tree, where: str) -> Shape:
    if type(value) is int:
        return value
    if not isinstance(value, list | tuple):
        _wrong(value, where, "a shape")
    return tuple(_shape(part, where) for part in value)


def _array(value: Tree, where: str) -> Array:
    return value if isinstance(value, np.ndarray) else _wrong(value, where, "an array")


def _arrays(value: Tree, where: str) -> dict[str, Array]:
    named = _named(value, where)
    return {name: _array(array, f"{where}.{quote(name)}") for name, array in named.items()}


def _states(value: Tree, where: str) -> States:
    return tuple(
        _array(state, where) if isinstance(state, np.ndarray) else _states(state, where)
        for state in _list(value, where)
    )


def _component(value: Tree, where: str) -> Component:
    record = _dict(value, where)
    return Component(
        type=_word(record.get("type"), f"{where}.type"),
        config=_named(record.get("config"), f"{where}.config"),
    )


def _optional_component(value: Tree, where: str) -> Component | None:
    return None if value is None else _component(value, where)
