"""The legacy format of Nervana's neon: read without executing it, described, rescued, rebuilt.

Needs only numpy and the standard library, and PyTorch for `to_module` alone, which loads on first
use. Nothing here ever imports `pickle`.
"""

import importlib
from typing import TYPE_CHECKING, Any

from .files import read_file
from .model import (
    UNKNOWN,
    Component,
    Layer,
    NeonModel,
    parse_model,
    read_model,
    read_model_bytes,
)
from .rescue import RescuedLayer, RescuedNetwork, rescue
from .survey import PickleSurvey, survey, survey_bytes
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
    "parse_model",
    "read_file",
    "read_model",
    "read_model_bytes",
    "read_pickle",
    "read_pickle_bytes",
    "rescue",
    "survey",
    "survey_bytes",
    "to_module",
]


def __getattr__(name: str) -> Any:
    if name != "to_module":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = importlib.import_module(".module", __name__).to_module
    return globals()[name]
