"""Every array of any neon model, in PyTorch's layouts, and a description to rebuild the network.

An array's name is its place in the tree of layers, each layer being its index in its container and
its class: ``layers.3_MergeSum.1_Sequential.0_Convolution.weight``. neon's own layer names are not
used: they count the layers of the process that wrote the file, and may repeat.
"""

import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from ..errors import CheckpointError, NeonError, printable, quote
from ..storage import RESCUED_KEY, from_json, opened, read_texts, to_json, write_atomically
from .layers import LAYER_CLASSES, WITHOUT_EFFECT, NotUnderstoodError, Settings
from .model import Component, Layer, NeonModel
from .unpickle import Array, Tree

_LONGEST_NAME = 1000  # of a layer; the longest of the genuine files has 80 characters


@dataclass(frozen=True, eq=False)
class RescuedLayer:
    """A layer in PyTorch's terms.

    Attributes:
        name: Its place in the tree, such as ``"layers.0_Convolution"``.
        type: neon's class, such as ``"neon.layers.layer.Convolution"``.
        neon_name: What neon called it, such as ``"Convolution_7"``, if the file tells.
        settings: What decides its arithmetic, with defaults filled in, fit for JSON; None if its
            class or its configuration is not understood.
        not_understood: Why it cannot be rebuilt; None if it can.
        arrays: Its own arrays. Parameters in PyTorch's layouts have PyTorch's names
            (``weight``, ``bias``, ``running_mean``, ...); anything else is as it was in the file
            and named ``neon.*`` (parameters) or ``config.*`` (constructor arguments).
        config: neon's own configuration, fit for JSON, without names.
        layers: The layers inside, for a container.
    """

    name: str
    type: str
    neon_name: str | None
    settings: Settings | None
    not_understood: str | None
    arrays: Mapping[str, Array]
    config: Mapping[str, Any]
    layers: tuple["RescuedLayer", ...]

    @property
    def kind(self) -> str:
        """The class name alone, such as ``"Convolution"``."""
        return self.type.rpartition(".")[2]

    def setting(self, name: str) -> Any:
        """One of its settings; None if it has no such setting."""
        return None if self.settings is None else self.settings.get(name)

    def walk(self) -> Iterator["RescuedLayer"]:
        """This layer and all those inside it, outermost first, in the file's order."""
        yield self
        for layer in self.layers:
            yield from layer.walk()


@dataclass(frozen=True, eq=False)
class RescuedNetwork:
    """A neon model in PyTorch's terms.

    Attributes:
        root: The outermost container.
        arrays: Every array under its full name; read-only, in native byte order, views on the
            file where possible. Optimizer states are among them if they were asked for, as
            ``states.<slot>.`` and their parameter's name, laid out like the parameter.
        description: What the file says about the network, fit for JSON: ``neon_version``,
            ``backend``, ``compat_mode``, ``epoch``, ``input_shape``, ``has_architecture``,
            ``optimizer``, ``cost``, ``parameters`` (their number), ``not_understood`` (names of
            layers), and the outermost container: ``type``, ``settings`` and ``layers``, nested, and
            ``root_not_understood``, the reason why it is not understood itself, or None.
    """

    root: RescuedLayer
    arrays: Mapping[str, Array]
    description: Mapping[str, Any]


def rescue(model: NeonModel, *, states: bool = False) -> RescuedNetwork:
    """Name every parameter of any neon model and bring it into PyTorch's layout.

    The result depends on the network alone: a model gives the same names, values and description
    whether Python 2 or Python 3 wrote it.

    Args:
        model: As from `read_model`, of any network. Files of neon 1.1.5 and older do not hold the
            network: their arrays are named by position, and kernels, whose shape only the network
            tells, stay matrices.
        states: Rescue the optimizer's states too.

    Returns:
        Arrays and description. A layer that is not understood keeps its arrays as they are.

    Raises:
        NeonError: An array's shape contradicts what the file says about its layer.
    """
    outermost = model.root or Layer("Sequential", {}, layers=model.layers)
    root = _rescue_layer(outermost, "layers", model.compat_mode or "neon")
    arrays = {
        f"{rescued.name}.{name}": array
        for rescued in root.walk()
        for name, array in rescued.arrays.items()
    }
    parameters = sum(
        array.size
        for rescued in root.walk()
        for name, array in rescued.arrays.items()
        if not name.startswith("config.")
    )
    if states:
        arrays |= {f"states.{name}": array for name, array in _rescue_states(outermost, root)}
    description = {
        "neon_version": model.version,
        "backend": model.backend,
        "compat_mode": model.compat_mode,
        "epoch": model.epoch,
        "input_shape": model.input_shape,
        "has_architecture": model.root is not None,
        "optimizer": _describe_component(model.optimizer),
        "cost": _describe_component(model.cost),
        "parameters": parameters,
        **_describe(root),
        "not_understood": [rescued.name for rescued in root.walk() if rescued.not_understood],
        "root_not_understood": root.not_understood,
    }
    native = {
        name: array.astype(array.dtype.newbyteorder("="), copy=False)
        for name, array in arrays.items()
    }
    return RescuedNetwork(root, native, description)


# Layers.


def _rescue_layer(layer: Layer, name: str, mode: str) -> RescuedLayer:
    if len(name) > _LONGEST_NAME:  # every name inside begins with it
        raise NeonError(f"its layers are nested so deep that one has a name of {len(name)} letters")
    settings, arrays, not_understood = _translate(layer, name, mode)
    config = cast("Tree", dict(layer.config))
    arrays |= _named(name, [(f"config.{path}", each) for path, each in _arrays_within(config)])
    neon_name = layer.config.get("name")
    return RescuedLayer(
        name=name,
        type=layer.type,
        neon_name=_safe(neon_name) if isinstance(neon_name, str) else None,
        settings=settings,
        not_understood=not_understood,
        arrays=arrays,
        config=_plain(config),
        layers=tuple(
            _rescue_layer(child, f"{name}.{index}_{child.kind}", mode)
            for index, child in enumerate(layer.layers)
        ),
    )


def _translate(
    layer: Layer, name: str, mode: str
) -> tuple[Settings | None, dict[str, Array], str | None]:
    """Settings, arrays, and what is not understood, of one layer without those inside it."""
    raw = _named(name, [(f"neon.{_safe(key)}", array) for key, array in layer.params.items()])
    layer_class = LAYER_CLASSES.get(layer.kind)
    if layer_class is None:
        return None, raw, f"the class {layer.type} is not known"
    try:
        settings = layer_class.settings(layer, mode)
        arrays = layer_class.arrays(layer, layer.params)
    except NotUnderstoodError as error:
        return None, raw, str(error)
    except NeonError as error:
        raise NeonError(f"{name}: {error}") from error
    extra = sorted(layer.params.keys() - layer_class.params)
    arrays |= {f"neon.{_safe(key)}": layer.params[key] for key in extra}
    unknown = sorted(layer.config.keys() - layer_class.options - WITHOUT_EFFECT) + extra
    return settings, arrays, f"its {quote(unknown[0])} is not known" if unknown else None


# Optimizer states.


def _rescue_states(layer: Layer, rescued: RescuedLayer) -> Iterator[tuple[str, Array]]:
    """Named states of a layer and those inside it. Slot 0 is the velocity or first moment."""
    layer_class = LAYER_CLASSES.get(layer.kind)
    slots = None
    if layer_class is not None and rescued.settings is not None:
        slots = _slots(layer, layer_class.trained)
    if layer_class is None or slots is None:
        for path, array in _arrays_within(cast("Tree", layer.states)):
            yield f"raw.{rescued.name}.{path}", array
    else:
        for slot, states in enumerate(slots):
            for parameter, array in layer_class.arrays(layer, states).items():
                yield f"{slot}.{rescued.name}.{parameter}", array
    for inner, rescued_inner in zip(layer.layers, rescued.layers, strict=True):
        yield from _rescue_states(inner, rescued_inner)


def _slots(layer: Layer, trained: tuple[str, ...]) -> list[dict[str, Array]] | None:
    """Each slot's states by neon's parameter; None if they do not match the parameters."""
    groups = (layer.states,) if len(trained) == 1 else layer.states or ((),) * len(trained)
    if len(groups) != len(trained):
        return None
    slots: list[dict[str, Array]] = []
    for name, group in zip(trained, groups, strict=True):
        if isinstance(group, np.ndarray):  # where its slots should be
            return None
        parameter = layer.params.get(name)
        for slot, state in enumerate(group):
            if parameter is None or not isinstance(state, np.ndarray):
                return None
            if state.shape != parameter.shape:
                return None
            if slot == len(slots):
                slots.append({})
            slots[slot][name] = state
    return slots


# Names and values.


def _named(layer: str, pairs: list[tuple[str, Array]]) -> dict[str, Array]:
    """Arrays by name, none of which may hide another."""
    named = dict(pairs)
    if any(len(name) > _LONGEST_NAME for name in named):
        raise NeonError(f"an array of {layer} is nested so deep that its name fills a page")
    if len(named) < len(pairs):
        raise NeonError(f"damaged: two arrays of {layer} would be called the same")
    return named


def _safe(key: str) -> str:
    """A name out of a file, fit for a file and a terminal."""
    return re.sub(r"[^A-Za-z0-9_.+-]", "_", key[:100]) or "_"


def _arrays_within(value: Tree) -> Iterator[tuple[str, Array]]:
    """Arrays inside a configuration, such as an initializer's, each with its path."""
    if not isinstance(value, dict | list | tuple):
        return
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(item, np.ndarray):
            yield _safe(str(key)), item
        else:
            yield from (
                (f"{_safe(str(key))}.{path}", array) for path, array in _arrays_within(item)
            )


def _describe(layer: RescuedLayer) -> dict[str, Any]:
    """A layer and those inside it. neon's configuration is quoted only where it is all we have."""
    description: dict[str, Any] = {"name": layer.name, "type": layer.type}
    if layer.not_understood is not None:
        description |= {"not_understood": layer.not_understood, "config": layer.config}
    description["settings"] = layer.settings
    description["arrays"] = {
        name: {"shape": list(array.shape), "dtype": array.dtype.name}
        for name, array in layer.arrays.items()
    }
    description["layers"] = [_describe(child) for child in layer.layers]
    return description


def _describe_component(component: Component | None) -> dict[str, Any] | None:
    if component is None:
        return None
    return {"type": component.type, "config": _plain(cast("Tree", dict(component.config)))}


def _plain(value: Tree) -> Any:
    """A value out of a file, fit for JSON and independent of the program that wrote the file.

    Names are left out, for they count the objects of the process that wrote the file.
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


# The file of a rescued network: its arrays as safetensors, its description in the header. It is no
# weights file of ours: it holds any network.

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
        description = _parse_description(texts[RESCUED_KEY])
    root = _described_layer(description, arrays, description.get("root_not_understood"))
    return RescuedNetwork(root, arrays, description)


def _described_layer(
    layer: Mapping[str, Any], arrays: Mapping[str, Array], not_understood: str | None
) -> RescuedLayer:
    """A layer from its description, with those of its arrays that are really there."""
    name = layer["name"]
    return RescuedLayer(
        name=name,
        type=layer["type"],
        neon_name=None,
        settings=layer["settings"],
        not_understood=not_understood,
        arrays={
            each: arrays[f"{name}.{each}"] for each in layer["arrays"] if f"{name}.{each}" in arrays
        },
        config={},
        layers=tuple(
            _described_layer(inner, arrays, inner.get("not_understood"))
            for inner in layer["layers"]
        ),
    )


def _parse_description(text: str) -> dict[str, Any]:
    """What a header says, which may come from anywhere."""
    description = from_json(text)
    if not _is_layer(description):
        raise CheckpointError("its description is damaged")
    return cast("dict[str, Any]", description)


def _is_layer(value: object) -> bool:
    """Whether this is the description of a layer and those inside it, as `rescue` writes it."""
    if not isinstance(value, dict):
        return False
    texts = (value.get("name"), value.get("type"), value.get("neon_name", ""))
    arrays, layers = value.get("arrays"), value.get("layers")
    return (
        all(isinstance(text, str) for text in texts)
        and isinstance(value.get("settings", 0), dict | None)
        and isinstance(arrays, dict)
        and all(map(_is_array, arrays.values()))
        and isinstance(layers, list)
        and all(map(_is_layer, layers))
    )


def _is_array(value: object) -> bool:
    match value:
        case {"shape": list(shape), "dtype": str()}:
            is_shape = all(type(extent) is int and 0 <= extent < 2**63 for extent in shape)
            return is_shape and len(shape) <= 64  # numpy's limit
    return False
