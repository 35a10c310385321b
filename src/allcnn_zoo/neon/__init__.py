"""The legacy format of Nervana's neon: read without executing it, understand it, convert it.

Needs only numpy and the standard library. Nothing here ever imports `pickle`.
"""

from .files import read_file
from .survey import PickleSurvey, survey, survey_bytes
from .unpickle import Array, Tree, read_pickle, read_pickle_bytes

__all__ = [
    "Array",
    "PickleSurvey",
    "Tree",
    "read_file",
    "read_pickle",
    "read_pickle_bytes",
    "survey",
    "survey_bytes",
]
