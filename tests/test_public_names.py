"""Public names and their types. `make types` checks typing/consumer.py itself."""

import inspect
import re
import typing
from pathlib import Path

import pytest

import allcnn_zoo

CONSUMER = (Path(__file__).parent / "typing" / "consumer.py").read_text()


@pytest.mark.parametrize("name", allcnn_zoo.__all__)
def test_the_consumer_uses_every_public_name(name: str) -> None:
    assert re.search(rf"\b{name}\b", CONSUMER)


@pytest.mark.parametrize("name", [*allcnn_zoo.__all__, *allcnn_zoo._MODULES])
def test_annotations_of_public_callables_can_be_resolved(name: str) -> None:
    public = getattr(allcnn_zoo, name)
    names = getattr(public, "__all__", [each for each in dir(public) if each[0] != "_"])
    for each in [getattr(public, key) for key in names] if inspect.ismodule(public) else [public]:
        members = vars(each).values() if inspect.isclass(each) else ()
        for one in (each, *(getattr(member, "__func__", member) for member in members)):
            is_ours = str(getattr(one, "__module__", "")).startswith("allcnn_zoo")
            if is_ours and (inspect.isfunction(one) or inspect.isclass(one)):
                typing.get_type_hints(one)


def test_there_is_no_other_name() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        _ = allcnn_zoo.nonsense
