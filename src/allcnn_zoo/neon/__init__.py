"""Model files of Nervana's neon: read without executing them, described, rescued, rebuilt.

Needs numpy and safetensors, and PyTorch for `to_module` alone, which loads on first
use. Nothing here ever imports `pickle`.
"""

import importlib
from typing import TYPE_CHECKING, Any

from .files import read_file
from .inspection import PickleSurvey, inspect_pickle, survey, survey_bytes
from .model import (
    UNKNOWN,
    Component,
    Layer,
    NeonModel,
    parse_model,
    read_model,
    read_model_bytes,
)
from .rescue import (
    RescuedLayer,
    RescuedNetwork,
    load_rescued,
    read_description,
    rescue,
    save_rescued,
)
from .unpickle import Array, Tree, read_pickle, read_pickle_bytes

if TYPE_CHECKING:
    from .module import to_module

__all__ = [
    "UNKNOWN",
    "Array",
    "Component",
    "Layer",
    "NeonModel",
    "PickleSurvey",
    "RescuedLayer",
    "RescuedNetwork",
    "Tree",
    "inspect_pickle",
    "load_rescued",
    "parse_model",
    "read_description",
    "read_file",
    "read_model",
    "read_model_bytes",
    "read_pickle",
    "read_pickle_bytes",
    "rescue",
    "save_rescued",
    "survey",
    "survey_bytes",
    "to_module",
]


def __getattr__(name: str) -> Any:
    if name != "to_module":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = importlib.import_module(".module", __name__).to_module
    return globals()[name]
