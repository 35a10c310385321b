"""Small files that want to become large, slow or deep, or to contain themselves."""

import pickle
import struct
from typing import Any

import pytest

from allcnn_zoo.neon import read_pickle

from .assemble import (
    EMPTY_ARRAY,
    ENCODE,
    FLOAT32,
    LITTLE_ENDIAN,
    array,
    integer,
    refused,
    shape,
    string,
    text,
)

LENGTHS = {
    "BINSTRING": b"T\xff\xff\xff\x7f",
    "negative BINSTRING": b"T\xff\xff\xff\xff",
    "SHORT_BINSTRING": b"U\xff",
    "BINUNICODE": b"X\xff\xff\xff\xff",
    "BINUNICODE8": b"\x8d" + b"\xff" * 8,
    "SHORT_BINUNICODE": b"\x8c\xff",
    "BINBYTES": b"B\xff\xff\xff\xff",
    "BINBYTES8": b"\x8e" + b"\xff" * 8,
    "BYTEARRAY8": b"\x96" + b"\xff" * 8,
    "LONG1": b"\x8a\xff",
    "LONG4": b"\x8b\xff\xff\xff\x7f",
    "negative LONG4": b"\x8b\xff\xff\xff\xff",
    "FRAME": b"\x95" + b"\xff" * 8,
    "short FRAME": b"\x95" + struct.pack("<Q", 100),
    **{
        f"line of {opcode!r}": opcode + b"1" * 100_000
        for opcode in (b"I", b"L", b"F", b"S", b"V", b"c", b"cos\n", b"i", b"p", b"g", b"P")
    },
}


@pytest.mark.parametrize("attack", LENGTHS.values(), ids=LENGTHS)
def test_lengths_that_are_not_there(attack: bytes) -> None:
    refused(attack + b"N.", "goes beyond the end of the file")


def test_giant_integers() -> None:
    refused(integer(1 << 500_000) + b".", "an integer of 62501 bytes")
    refused(integer(1 << 64) + b".", "more than 64 bits")
    refused(b"I%d\n." % (1 << 64), "more than 64 bits")
    for opcode in b"ILFpg":
        refused(bytes([opcode]) + b"9" * 100_000 + b"\n.", "a number of 100000 characters")
    assert read_pickle(integer(2**64 - 1) + b".") == 2**64 - 1


NESTED = {
    "lists": b"]" * 100_000 + b"a" * 99_999,
    "more lists than allowed": b"]" * 150 + b"a" * 149,
    "marks": b"(" * 100_000 + b"l" * 100_000,
    "tuples": b"N" + b"\x85" * 100_000,
    "dicts": b"}U\x01k" * 50_000 + b"N" + b"s" * 50_000,
    "a list that gets itself": b"]q\x00h\x00a",
    "a list that gets itself twice": b"]q\x00(h\x00]h\x00ae",
    "a dict that gets itself": b"}K\x01Nsq\x00K\x02h\x00s",
    "a tuple in a list in the tuple": b"]q\x00h\x00\x85q\x01ah\x01\x86",
}


@pytest.mark.parametrize("attack", NESTED.values(), ids=NESTED)
def test_deep_or_endless_nesting(attack: bytes) -> None:
    refused(attack + b".", "nested more than 100 deep, or without end")


def _doubled(tree: Any) -> Any:
    for _ in range(50):
        tree = type(tree)([tree, tree])
    return tree


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("tree", [["ha"], ("ha",)])
def test_containers_that_multiply(tree: Any, protocol: int) -> None:
    refused(pickle.dumps(_doubled(tree), protocol), "in several places is more than the file")


@pytest.mark.parametrize(
    "shared",
    [
        pytest.param(array(shape=shape(10_000), data=string(bytes(40_000))), id="an array"),
        pytest.param(text("x" * 10_000), id="a text"),
        pytest.param(b"(" + b"K\x01" * 1000 + b"l", id="a list"),
        pytest.param(b"(" + text("x" * 10_000) + b"t\x85\x85", id="a tuple in tuples"),
    ],
)
def test_what_is_in_many_places_is_paid_for_in_each(shared: bytes) -> None:
    # Nothing in memory, but written down it would stand there so many times.
    few, many = (b"(" + shared + b"q\x00" + b"h\x00" * count + b"l." for count in (10, 30_000))
    assert len(read_pickle(few)) == 11
    refused(many, "what is in several places is more than the file has")


def test_many_arrays_over_the_same_bytes() -> None:
    begun = EMPTY_ARRAY + b"(K\x01" + shape(2500)
    first = begun + FLOAT32 + LITTLE_ENDIAN + b"q\x00\x89" + string(bytes(10_000)) + b"q\x01tb"
    again = begun + b"h\x00\x89h\x01tb"
    assert len(read_pickle(b"(" + first + again * 9 + b"l.")) == 10
    refused(b"(" + first + again * 8000 + b"l.", "in several places is more than the file")


def test_one_long_text_decoded_many_times() -> None:
    long = ENCODE + b"q\x00" + text("\0" * 100_000) + b"q\x01" + text("latin1") + b"q\x02\x86R"
    refused(b"(" + long + b"h\x00h\x01h\x02\x86R" * 1000 + b"l.", "more bytes than the file has")


@pytest.mark.parametrize("filler", [b"}", b"N\x94"])
def test_endless_opcodes(filler: bytes) -> None:
    refused(b"(" + filler * (400_000 // len(filler)) + b"l.", "more than 400000 opcodes")


@pytest.mark.parametrize(
    ("extents", "reason"),
    [
        *(
            (extents, "does not fit its 8 bytes")
            for extents in (
                *((0,), (0, 2**63), (1,), (3,), (2**62,), (2**63 - 1, 2**63 - 1)),
                *((2**31, 2**33, 2), (2, *(1,) * 99)),
                (2**32, 2**32),  # 2**64 elements are none in 64 bits
            )
        ),
        ((-1,), "whose shape is a tuple of 1"),
        ((-2, -1), "whose shape is a tuple of 2"),
    ],
)
def test_shapes_that_do_not_fit_the_data(extents: tuple[int, ...], reason: str) -> None:
    refused(array(shape=shape(*extents)) + b".", reason)


@pytest.mark.parametrize(
    "strange",
    [
        *(b"K\x02", b"](K\x02e", b"N", b"\x88\x85", b"G@" + bytes(7) + b"\x85", b"U\x012\x85"),
        *(array() + b"\x85", b"K\x02\x85\x85"),
    ],
)
def test_shapes_that_are_none(strange: bytes) -> None:
    refused(array(shape=strange) + b".", "shape")


def test_arrays_without_elements_cost_nothing() -> None:
    data = ENCODE + text("") + text("latin1") + b"\x86R"
    many = array(shape=shape(2**20, 0, 2**20), data=data)
    assert read_pickle(many + b".").size == 0
    refused(array(shape=shape(0, 2**62), data=data) + b".", "does not fit its 0 bytes")


def test_keys_that_are_chosen_to_collide() -> None:
    # Python's hash of an integer is the integer: these all want the same place in any dict.
    keys = [integer(number << 40) + b"N" for number in range(1001)]
    refused(b"}(" + b"".join(keys) + b"u.", "more than 1000 integers as keys")
    refused(b"}" + b"s".join(keys) + b"s.", "more than 1000 integers as keys")
    assert len(read_pickle(b"}(" + b"".join(keys[:1000]) + b"u.")) == 1000


@pytest.mark.parametrize(
    ("attack", "reason"),
    [
        (b"h\x05.", "memo index 5 was never set"),
        (b"j\xff\xff\xff\xff.", "memo index 4294967295 was never set"),
        (b"g-1\n.", "memo index -1 was never set"),
        (b"Nr\xff\xff\xff\x7f.", "memo index 2147483647 is out of range"),
        (b"Np-1\n.", "memo index -1 is out of range"),
        (b"Np99999999999999999999\n.", "more than 64 bits"),
        (b"Np1_0\n.", "not a number"),
        (b"Nq\x00q\x00.", "memo index 0 is set twice"),
        (b"Nq\x01\x94.", "memo index 1 is set twice"),
        *((put + b".", "nothing on the stack") for put in (b"q\x00", b"N(q\x00", b"\x94")),
        # The dtype is remembered; a second state would change it after it was checked.
        (FLOAT32 + b"q\x00" + LITTLE_ENDIAN + b"h\x00" + LITTLE_ENDIAN + b"\x86.", "a state"),
        (FLOAT32 + b"q\x00h\x00" + LITTLE_ENDIAN + b"a.", "a state|not a list"),
    ],
)
def test_the_memo_is_used_as_python_uses_it(attack: bytes, reason: str) -> None:
    refused(attack, reason)
