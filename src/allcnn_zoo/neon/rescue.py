"""All arrays of any neon model, in PyTorch's layouts, and a description to rebuild the network.

An array's name is its path in the tree of layers, where each layer is its index in its container
and its class: ``layers.3_MergeSum.1_Sequential.0_Convolution.weight``. neon's own layer names are
not used: they differ from run to run, and may repeat.
"""

import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from ..errors import CheckpointError, NeonError, printable, quote
from ..storage import RESCUED_KEY, from_json, opened, read_texts, to_json, write_atomically
from .layers import translate
from .model import Component, Layer, NeonModel
from .unpickle import Array

Description: TypeAlias = Mapping[str, Any]

_LONGEST_NAME = 1000  # of a layer or array; the longest of the genuine files has 80 characters


@dataclass(frozen=True, eq=False)
class RescuedNetwork:
    """A neon model in PyTorch's terms.

    Attributes:
        description: What the file says about the network, fit for JSON: ``neon_version``,
            ``backend``, ``compat_mode``, ``epoch``, ``input_shape``, ``has_architecture``,
            ``optimizer``, ``cost``, ``parameters`` (their number), ``not_understood`` (names of
            layers), ``root_not_understood`` (why the outermost container is not, or None), and
            the outermost container. It has, like any layer: a ``name``, its place in the tree, such
            as ``"layers.0_Convolution"``; ``type``, neon's class; ``settings``, what decides its
            arithmetic, with defaults filled in, or None; ``arrays``, with ``shape`` and ``dtype``;
            and ``layers``, those inside it. One that cannot be rebuilt has the reason as
            ``not_understood``, and its ``config`` as neon wrote it, without names.
        arrays: Every array by its layer's name, a dot, and its own; read-only, in native byte
            order, views on the file where possible. Parameters in PyTorch's layouts have PyTorch's
            names (``weight``, ``bias``, ``running_mean``, ...); others are as they were in the file
            and named ``neon.*`` (parameters) or ``config.*`` (constructor arguments). Optimizer
            states, if they were asked for, are ``states.<slot>.`` and their parameter's name, and
            laid out like it.
        neon_names: neon's names of the layers, like ``"Convolution_7"``, by their names here, if
            recorded.
    """

    description: Description
    arrays: Mapping[str, Array]
    neon_names: Mapping[str, str] = field(default_factory=dict)

    def arrays_of(self, layer: Description) -> dict[str, Array]:
        """The arrays of a described layer that the file holds, by their own names."""
        names = {name: f"{layer['name']}.{name}" for name in layer["arrays"]}
        return {name: self.arrays[full] for name, full in names.items() if full in self.arrays}


def kind_of(layer: Description) -> str:
    """The class name of a described layer alone, for example ``"Convolution"``."""
    return str(layer["type"].rpartition(".")[2])


def rescue(model: NeonModel, *, states: bool = False) -> RescuedNetwork:
    """Name all parameters of any neon model and convert them to PyTorch's layouts.

    The result depends only on the network: names, values and description are the same whether
    Python 2 or Python 3 wrote the file.

    Args:
        model: The result of `read_model`. Files of neon 1.1.5 and older do not hold the network:
            their arrays are named by position, and kernels stay matrices, because only the network
            defines their shape.
        states: Include the optimizer's states.

    Returns:
        Arrays and description. The arrays of a layer that is not understood are unchanged.

    Raises:
        NeonError: An array's shape contradicts what the file says about its layer.
    """
    rescuer = _Rescuer(model.compat_mode or "neon")
    root = rescuer.describe(model.root, "layers")
    description = {
        "neon_version": model.version,
        "backend": model.backend,
        "compat_mode": model.compat_mode,
        "epoch": model.epoch,
        "input_shape": model.input_shape,
        "has_architecture": model.has_network,
        "optimizer": _describe_component(model.optimizer),
        "cost": _describe_component(model.cost),
        "parameters": rescuer.parameters,
        **root,
        "not_understood": rescuer.not_understood,
        "root_not_understood": root.get("not_understood"),
    }
    arrays = rescuer.arrays | rescuer.states if states else rescuer.arrays
    return RescuedNetwork(description, arrays, rescuer.neon_names)


class _Rescuer:
    """Collects arrays, names and problems from the tree of layers."""

    def __init__(self, mode: str) -> None:
        self.arrays: dict[str, Array] = {}
        self.states: dict[str, Array] = {}
        self.neon_names: dict[str, str] = {}
        self.not_understood: list[str] = []
        self.parameters = 0
        self._mode = mode

    def describe(self, layer: Layer, name: str) -> dict[str, Any]:
        """Describe a layer and those inside it, and collect their arrays."""
        if len(name) > _LONGEST_NAME:  # every name inside begins with it
            raise NeonError(f"its layers are nested so deep that a name has {len(name)} characters")
        try:
            translation = translate(layer, self._mode)
        except NeonError as error:
            raise NeonError(f"{name}: {error}") from error
        config = dict(layer.config)
        untranslated = [
            (f"neon.{_safe(key)}", layer.params[key]) for key in translation.untranslated
        ]
        parameters = [*translation.arrays.items(), *untranslated]
        self.parameters += sum(array.size for _, array in parameters)
        parameters += [(f"config.{path}", array) for path, array in _arrays_within(config)]
        for own_name, array in parameters:
            _add(self.arrays, f"{name}.{own_name}", array)
        if translation.slots is None:
            for path, array in _arrays_within(layer.states):
                _add(self.states, f"states.raw.{name}.{path}", array)
        for slot, states in enumerate(translation.slots or ()):
            for own_name, array in states.items():
                _add(self.states, f"states.{slot}.{name}.{own_name}", array)
        if isinstance(neon_name := layer.config.get("name"), str):
            self.neon_names[name] = _safe(neon_name)
        description: dict[str, Any] = {"name": name, "type": layer.type}
        if translation.problem is not None:
            self.not_understood.append(name)
            description |= {"not_understood": translation.problem, "config": _plain(config)}
        return {
            **description,
            "settings": translation.settings,
            "arrays": {
                own_name: {"shape": list(array.shape), "dtype": array.dtype.name}
                for own_name, array in parameters
            },
            "layers": [
                self.describe(inner, f"{name}.{index}_{inner.kind}")
                for index, inner in enumerate(layer.layers)
            ],
        }


def _add(arrays: dict[str, Array], name: str, array: Array) -> None:
    if len(name) > _LONGEST_NAME:
        raise NeonError(f"an array is nested so deep that its name has {len(name)} characters")
    if name in arrays:
        raise NeonError(f"damaged: two arrays would be called {name}")
    arrays[name] = array.astype(array.dtype.newbyteorder("="), copy=False)


def _safe(key: str) -> str:
    """A name from a file with special characters replaced."""
    return re.sub(r"[^A-Za-z0-9_.+-]", "_", key[:100]) or "_"


def _arrays_within(value: object) -> Iterator[tuple[str, Array]]:
    """Yield the arrays inside a configuration, for example of an initializer, with their paths."""
    if not isinstance(value, dict | list | tuple):
        return
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(item, np.ndarray):
            yield _safe(str(key)), item
        for path, array in _arrays_within(item):
            yield f"{_safe(str(key))}.{path}", array


def _describe_component(component: Component | None) -> dict[str, Any] | None:
    if component is None:
        return None
    return {"type": component.type, "config": _plain(dict(component.config))}


def _plain(value: object) -> Any:
    """Convert a value from a file to JSON values that depend only on the network.

    Names are left out because neon numbers them per process.
    """
    if isinstance(value, dict):
        plain = {str(key): _plain(value[key]) for key in value if key != "name"}
        if len(plain) < len(value) - ("name" in value):
            raise NeonError("a dict has a number and the same number as text for keys")
        return plain
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    odd = isinstance(value, float) and not math.isfinite(value)
    return quote(value) if odd or isinstance(value, bytes | np.ndarray) else value


# The file of a rescued network: its arrays as safetensors, its description in the header. It is not
# a weights file of this package.

_FORMAT_VERSION = 1


def save_rescued(path: str | os.PathLike[str], network: RescuedNetwork) -> None:
    """Write a rescued network, completely or not at all; the same network gives the same bytes.

    Args:
        path: Destination, usually ``*.safetensors``; replaced if it exists.
        network: As from `rescue`.

    Raises:
        CheckpointError: The description is larger than the format allows.
        OSError: The file cannot be written; nothing is left behind.
    """
    header = {"format_version": _FORMAT_VERSION, **network.description}
    text = to_json(header, sort_keys=True, separators=(",", ":"))
    arrays = {name: np.asarray(array, order="C") for name, array in network.arrays.items()}
    try:
        content = safetensors.numpy.save(arrays, {RESCUED_KEY: text})
    except SafetensorError as error:
        raise CheckpointError(f"cannot write {printable(path)}: {error}") from None
    write_atomically(Path(path), content)


def read_description(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The description in a rescued file; None for a safetensors file of another kind.

    Raises:
        CheckpointError: The file is missing or damaged, or its description is.
    """
    text = read_texts(Path(path), "a rescued network").get(RESCUED_KEY)
    try:
        return None if text is None else _parse_description(text)
    except CheckpointError as error:
        raise CheckpointError(f"cannot read {printable(path)}: {error}") from None


def load_rescued(path: str | os.PathLike[str]) -> RescuedNetwork:
    """A rescued network from its file.

    Raises:
        CheckpointError: The file is missing, damaged, or of another kind.
    """
    with opened(Path(path), "a rescued network") as (arrays, texts):
        if RESCUED_KEY not in texts:
            raise CheckpointError("it has no neon_network header: another program wrote it")
        return RescuedNetwork(_parse_description(texts[RESCUED_KEY]), arrays)


def _parse_description(text: str) -> dict[str, Any]:
    """Read and check the description in a header, which anybody may have written."""
    description: dict[str, Any] = from_json(text)
    if not _is_layer(description):
        raise CheckpointError("its description is damaged")
    return description


def _is_layer(value: Any) -> bool:
    """Whether this is the description of a layer with its inner layers, as `rescue` writes it."""
    match value:
        case {
            "name": str(),
            "type": str(),
            "settings": dict() | None,
            "arrays": dict(arrays),
            "layers": list(layers),
        }:
            is_named = isinstance(value.get("neon_name", ""), str)
            return is_named and all(map(_is_array, arrays.values())) and all(map(_is_layer, layers))
    return False


def _is_array(value: object) -> bool:
    match value:
        case {"shape": list(shape), "dtype": str()}:
            is_shape = all(type(extent) is int and 0 <= extent < 2**63 for extent in shape)
            return is_shape and len(shape) <= 64  # numpy's limit
    return False
