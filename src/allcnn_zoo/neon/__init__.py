"""Model files of Nervana's neon: read without executing them, described, rescued, rebuilt.

Needs numpy and safetensors. Only `to_module` needs PyTorch, which loads on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

from .files import read_file
from .inspection import inspect_pickle
from .model import UNKNOWN, Component, Layer, NeonModel, parse_model, read_model
from .rescue import (
    RescuedNetwork,
    kind_of,
    load_rescued,
    read_description,
    rescue,
    save_rescued,
)
from .unpickle import Array, Tree, read_pickle

if TYPE_CHECKING:
    from .module import to_module

__all__ = [
    "UNKNOWN",
    "Array",
    "Component",
    "Layer",
    "NeonModel",
    "RescuedNetwork",
    "Tree",
    "inspect_pickle",
    "kind_of",
    "load_rescued",
    "parse_model",
    "read_description",
    "read_file",
    "read_model",
    "read_pickle",
    "rescue",
    "save_rescued",
    "to_module",
]


def __getattr__(name: str) -> Any:
    if name != "to_module":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = importlib.import_module(".module", __name__).to_module
    return globals()[name]
