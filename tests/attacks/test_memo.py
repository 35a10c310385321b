"""The memo, abused to share, confuse or multiply."""

import pickle
from typing import Any

import pytest

from allcnn_zoo.neon import read_pickle_bytes

from .assemble import FLOAT32, LITTLE_ENDIAN, array, refused, string, text


def _laughs() -> Any:
    tree: Any = ["ha"]
    for _ in range(50):
        tree = [tree, tree]
    return tree


def _recursive_list() -> Any:
    tree: list[Any] = []
    tree.append(tree)
    return tree


def _recursive_dict() -> Any:
    tree: dict[str, Any] = {}
    tree["self"] = tree
    return tree


def _recursive_tuple() -> Any:
    inner: list[Any] = []
    inner.append((inner,))
    return inner


def _nested_tuples() -> Any:
    tree: Any = ("ha",)
    for _ in range(50):
        tree = (tree, tree)
    return tree


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "build", [_laughs, _recursive_list, _recursive_dict, _recursive_tuple, _nested_tuples]
)
def test_containers_that_contain_one_another_or_multiply(build: Any, protocol: int) -> None:
    refused(pickle.dumps(build(), protocol))


@pytest.mark.parametrize(
    "attack",
    [
        pytest.param(b"]q\x00h\x00a.", id="a list that gets itself"),
        pytest.param(b"}K\x01Nsq\x00K\x02h\x00s.", id="a dict that gets itself"),
        pytest.param(b"]q\x00h\x00\x85q\x01ah\x01\x86.", id="a tuple in a list in the tuple"),
        pytest.param(b"]q\x00(h\x00]h\x00ae.", id="a list that gets itself twice"),
    ],
)
def test_nothing_contains_itself(attack: bytes) -> None:
    refused(attack, "contains itself")


@pytest.mark.parametrize(
    "shared",
    [
        pytest.param(array(shape=b"M\x10\x27\x85", data=string(bytes(40_000))), id="an array"),
        pytest.param(text("x" * 10_000), id="a text"),
        pytest.param(b"(" + b"K\x01" * 1000 + b"l", id="a list"),
        pytest.param(b"(" + text("x" * 10_000) + b"t\x85\x85", id="a tuple in tuples"),
    ],
)
def test_what_is_in_many_places_is_paid_for_in_each(shared: bytes) -> None:
    # Nothing in memory, but written down it would stand there so many times.
    few, many = (b"(" + shared + b"q\x00" + b"h\x00" * count + b"l." for count in (10, 30_000))
    assert len(read_pickle_bytes(few)) == 11
    refused(many, "what is in several places is more than the file has")


@pytest.mark.parametrize(
    ("attack", "reason"),
    [
        (b"h\x05.", "memo index 5 was never set"),
        (b"j\xff\xff\xff\xff.", "memo index 4294967295 was never set"),
        (b"g-1\n.", "memo index -1 was never set"),
        (b"Nr\xff\xff\xff\x7f.", "memo index 2147483647 is out of range"),
        (b"Np-1\n.", "memo index -1 is out of range"),
        (b"Np99999999999999999999\n.", "more than 64 bits"),
        (b"Np" + b"9" * 5000 + b"\n.", "a number of 5000 characters"),
        (b"Np1_0\n.", "no integer"),
        (b"Np 1\n.", "no integer"),
        (b"Np\xd9\xa1\n.", "no integer"),
        (b"Nq\x00q\x00.", "memo index 0 is set twice"),
        (b"Nq\x01\x94.", "memo index 1 is set twice"),
        (b"q\x00.", "nothing on the stack to remember"),
        (b"N(q\x00.", "nothing on the stack to remember"),
        (b"\x94.", "nothing on the stack to remember"),
    ],
)
def test_indices_make_sense(attack: bytes, reason: str) -> None:
    refused(attack, reason)


def test_a_dtype_is_not_changed_behind_an_arrays_back() -> None:
    # The dtype is remembered; a second state would change it after it was checked.
    big_endian = LITTLE_ENDIAN.replace(b"<", b">")
    twice = FLOAT32 + b"q\x00" + LITTLE_ENDIAN + b"h\x00" + big_endian
    refused(b"(" + twice + b"t.", "a dtype whose byte order makes no sense")
