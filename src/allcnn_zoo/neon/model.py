"""A typed, validated view of a neon model file, of any network and any release of neon.

Since neon 1.2.0 a file holds the whole network: a tree of layer records, each with its class, the
constructor arguments that differ from the class's defaults, its parameters and its optimizer
states. Files of neon 1.0.0 to 1.1.5 hold only a list of parameters, one entry per layer that has
some, and say nothing about how the layers are connected.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn, TypeAlias, TypeVar, cast

import numpy as np

from ..errors import NeonError, quote
from .files import Source, naming
from .unpickle import Array, Tree, read_pickle

T = TypeVar("T")
Shape: TypeAlias = int | tuple["Shape", ...]
States: TypeAlias = tuple["Array | States", ...]


@dataclass(frozen=True, eq=False)
class Component:
    """An object as neon describes it: its class and the arguments it was made with.

    Attributes:
        type: Dotted class name, for example ``"neon.transforms.activation.Rectlin"``.
        config: Constructor arguments in the file.
    """

    type: str
    config: Mapping[str, Tree]

    @property
    def kind(self) -> str:
        """The class name alone, for example ``"Rectlin"``."""
        return self.type.rpartition(".")[2]

    def component(self, name: str) -> "Component":
        """A constructor argument that is an object, for example an activation's transform.

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
        version: Release of neon that wrote it, like ``"2.3.0"``; None before 1.2.0, and in files of
            Nervana's caffe2neon.
        backend: Class of the backend, like ``"NervanaGPU"``; None before 1.2.0.
        compat_mode: ``"neon"`` or ``"caffe"``; None if not recorded.
        epoch: ``epoch_index``, the epoch reached, as neon counts; None if not recorded.
        input_shape: Shape of one input, like ``(3, 32, 32)``; None before 1.2.2.
        root: The outermost container. Before 1.2.0 it holds only the layers with parameters, in
            their order.
        has_network: Whether the file records how layers are connected, as it does since 1.2.0.
        optimizer: The optimizer, if recorded.
        cost: The cost, if recorded.
    """

    root: Layer
    has_network: bool = True
    version: str | None = None
    backend: str | None = None
    compat_mode: str | None = None
    epoch: int | None = None
    input_shape: Shape | None = None
    optimizer: Component | None = None
    cost: Component | None = None

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers in the outermost container."""
        return self.root.layers


def read_model(source: Source) -> NeonModel:
    """Read a neon model file without executing anything in it.

    Args:
        source: neon's file, usually ``*.p``, or its content.

    Returns:
        The model. Arrays are read-only.

    Raises:
        NeonError: The file cannot be read, or is a pickle but not of a neon model.
        UnsafePickleError: It is not one complete pickle of plain values and arrays.
    """
    tree = read_pickle(source)
    with naming(source):
        return parse_model(tree)


def parse_model(tree: Tree) -> NeonModel:
    """Give a neon file's tree types.

    Args:
        tree: As from `read_pickle`.

    Returns:
        The model.

    Raises:
        NeonError: A field is missing or of the wrong kind; the message names it.
    """
    if not isinstance(tree, dict):
        raise NeonError(f"not a neon model: the pickle holds {quote(tree)}, not a dict")
    epoch = _optional(_integer, tree.get("epoch_index"), "epoch_index")
    if "model" not in tree and "layer_params_states" in tree:
        layers = _layers(tree["layer_params_states"], "layer_params_states", _early_layer)
        return NeonModel(Layer("Sequential", {}, layers=layers), has_network=False, epoch=epoch)
    if "model" not in tree:
        keys = ", ".join(quote(key) for key in list(tree)[:8]) or "none"
        raise NeonError(f"not a neon model: no 'model' among its keys ({keys})")
    backend = _named(tree.get("backend"), "backend")
    return NeonModel(
        root=_layer(tree["model"], "model"),
        version=_optional(_word, tree.get("neon_version"), "neon_version"),
        backend=_optional(_word, backend.get("type"), "backend.type"),
        compat_mode=_optional(_word, backend.get("compat_mode"), "backend.compat_mode"),
        epoch=epoch,
        input_shape=_optional(_shape, tree.get("train_input_shape"), "train_input_shape"),
        optimizer=_optional(_component, tree.get("optimizer"), "optimizer"),
        cost=_optional(_component, tree.get("cost"), "cost"),
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
        layers=_layers(children, f"{where}.layers", _layer),
    )


def _layers(value: Tree, where: str, parse: Callable[[Tree, str], Layer]) -> tuple[Layer, ...]:
    records = enumerate(_list(value, where))
    return tuple(parse(record, f"{where}[{index}]") for index, record in records)


_EARLY_BATCH_NORM = ("beta", "gamma", "gmean", "gvar")
UNKNOWN = "Unknown"
"""The class of a layer in a file of neon 1.1.5 or older that does not record it."""


def _early_layer(value: Tree, where: str) -> Layer:
    """A record of neon 1.1.5 and older, with the class and parameter names of later releases.

    Its name is that of the class, like ``"ConvolutionLayer"``, unless the user gave the layer
    one. neon 1.0 has records without a name, and an array where later releases have a dict.
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


# A field that is missing or None counts as empty.


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
    """A class name or version, of plain characters only, because it is shown and stored."""
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9_.+-]{1,200}", value):
        return value
    _wrong(value, where, "a plain name")


def _optional(parse: Callable[[Tree, str], T], value: Tree, where: str) -> T | None:
    return None if value is None else parse(value, where)


def _integer(value: Tree, where: str) -> int:
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value.item()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if type(value) is int else _wrong(value, where, "an integer")


def _shape(value: Tree, where: str) -> Shape:
    if type(value) is int:
        return value
    if not isinstance(value, list | tuple):
        _wrong(value, where, "a shape")
    return tuple(_shape(part, where) for part in value)


def _arrays(value: Tree, where: str) -> dict[str, Array]:
    named = _named(value, where)
    for name, array in named.items():
        if not isinstance(array, np.ndarray):
            _wrong(array, f"{where}.{quote(name)}", "an array")
    return cast("dict[str, Array]", named)


def _states(value: Tree, where: str) -> States:
    return tuple(
        state if isinstance(state, np.ndarray) else _states(state, where)
        for state in _list(value, where)
    )


def _component(value: Tree, where: str) -> Component:
    record = _dict(value, where)
    return Component(
        type=_word(record.get("type"), f"{where}.type"),
        config=_named(record.get("config"), f"{where}.config"),
    )
