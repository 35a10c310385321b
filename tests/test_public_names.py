"""`make types` checks typing/consumer.py; here, that it leaves no public name out."""

import re
from pathlib import Path

import pytest

import allcnn_zoo

CONSUMER = (Path(__file__).parent / "typing" / "consumer.py").read_text()


@pytest.mark.parametrize("name", allcnn_zoo.__all__)
def test_the_consumer_uses_every_public_name(name: str) -> None:
    assert re.search(rf"\b{name}\b", CONSUMER)
