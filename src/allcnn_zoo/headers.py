"""The JSON in the headers of our files: written strictly, read with suspicion."""

import json
from collections.abc import Mapping
from typing import Any

from .errors import CheckpointError

_MOST_LEVELS = 100  # of lists and mappings; ours have five, and deeper ones would exhaust the stack


def to_json(value: Any, **options: Any) -> str:
    """A value as strict JSON text; options are those of `json.dumps`.

    Raises:
        CheckpointError: There is something that JSON does not have.
    """
    try:
        return json.dumps(value, default=_without_wrapping, allow_nan=False, **options)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"provenance and metrics hold JSON values only: {error}") from error


def _without_wrapping(value: object) -> dict[Any, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is none")


def from_json(text: str) -> Any:
    """What a header says, which may come from anywhere.

    Raises:
        CheckpointError: It is not JSON, or nested without reason.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"its header is damaged: {error!r:.200}") from error
    level = [value]
    for _ in range(_MOST_LEVELS):
        level = [inside for each in level for inside in _inside(each)]
        if not level:
            return value
    raise CheckpointError(f"its header is damaged: more than {_MOST_LEVELS} levels of nesting")


def _inside(value: object) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []
