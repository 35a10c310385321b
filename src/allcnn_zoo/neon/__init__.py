"""The legacy format of Nervana's neon: read without executing it, understand it, convert it.

Needs only numpy and the standard library. Nothing here ever imports `pickle`.
"""

from .convert import ConvertedAllCNN, DropoutMode, convert_allcnn
from .files import read_file
from .model import Component, Layer, NeonModel, parse_model, read_model, read_model_bytes
from .survey import PickleSurvey, survey, survey_bytes
from .unpickle import Array, Tree, read_pickle, read_pickle_bytes

__all__ = [
    "Array",
    "Component",
    "ConvertedAllCNN",
    "DropoutMode",
    "Layer",
    "NeonModel",
    "PickleSurvey",
    "Tree",
    "convert_allcnn",
    "parse_model",
    "read_file",
    "read_model",
    "read_model_bytes",
    "read_pickle",
    "read_pickle_bytes",
    "survey",
    "survey_bytes",
]
