"""Small files that want to become large, slow or deep."""

import struct

import pytest

from allcnn_zoo.neon import read_pickle_bytes

from .assemble import ENCODE, array, integer, refused, shape, string, text


@pytest.mark.parametrize(
    "attack",
    [
        pytest.param(b"T\xff\xff\xff\x7f", id="BINSTRING"),
        pytest.param(b"T\xff\xff\xff\xff", id="negative BINSTRING"),
        pytest.param(b"U\xff", id="SHORT_BINSTRING"),
        pytest.param(b"X\xff\xff\xff\xff", id="BINUNICODE"),
        pytest.param(b"\x8d" + b"\xff" * 8, id="BINUNICODE8"),
        pytest.param(b"\x8c\xff", id="SHORT_BINUNICODE"),
        pytest.param(b"B\xff\xff\xff\xff", id="BINBYTES"),
        pytest.param(b"\x8e" + b"\xff" * 8, id="BINBYTES8"),
        pytest.param(b"\x96" + b"\xff" * 8, id="BYTEARRAY8"),
        pytest.param(b"\x8a\xff", id="LONG1"),
        pytest.param(b"\x8b\xff\xff\xff\x7f", id="LONG4"),
        pytest.param(b"\x8b\xff\xff\xff\xff", id="negative LONG4"),
        pytest.param(b"\x95" + b"\xff" * 8, id="FRAME"),
    ],
)
def test_huge_declared_lengths(attack: bytes) -> None:
    refused(attack + b"N.", "goes beyond the end of the file")


def test_giant_integers() -> None:
    refused(integer(1 << 500_000) + b".", "an integer of 62501 bytes")
    refused(integer(1 << 64) + b".", "more than 64 bits")
    refused(b"L" + b"9" * 100_000 + b"\n.", "a number of 100000 characters")
    refused(b"I" + b"9" * 21 + b"\n.", "no integer of 64 bits")
    refused(b"F" + b"1" * 100_000 + b"\n.", "a number of 100000 characters")
    assert read_pickle_bytes(integer(2**64 - 1) + b".") == 2**64 - 1


@pytest.mark.parametrize(
    "attack",
    [
        pytest.param(b"]" * 100_000 + b"a" * 99_999, id="lists"),
        pytest.param(b"]" * 150 + b"a" * 149, id="more lists than allowed"),
        pytest.param(b"(" * 100_000 + b"l" * 100_000, id="marks"),
        pytest.param(b"N" + b"\x85" * 300_000, id="tuples"),
        pytest.param(b"}U\x01k" * 50_000 + b"N" + b"s" * 50_000, id="dicts"),
    ],
)
def test_deep_nesting(attack: bytes) -> None:
    refused(attack + b".", "nested more than 100 deep")


@pytest.mark.parametrize("filler", [b"}", b"N\x94"])
def test_endless_opcodes(filler: bytes) -> None:
    refused(b"(" + filler * 400_000 + b"l.", "more than 400000 opcodes")


@pytest.mark.parametrize(
    ("extents", "reason"),
    [
        ((0,), "does not fit its 8 bytes"),
        ((0, 2**63), "does not fit its 8 bytes"),
        ((-1,), "whose shape is a tuple of 1"),
        ((-2, -1), "whose shape is a tuple of 2"),
        ((2**62,), "does not fit its 8 bytes"),
        ((2**63 - 1, 2**63 - 1), "does not fit its 8 bytes"),
        ((2**32, 2**32), "does not fit its 8 bytes"),  # 2**64 elements are none in 64 bits
        ((2**31, 2**33, 2), "does not fit its 8 bytes"),
        ((1,), "does not fit its 8 bytes"),
        ((3,), "does not fit its 8 bytes"),
        ((2, *(1,) * 99), "does not fit its 8 bytes"),
    ],
)
def test_shapes_that_do_not_fit_the_data(extents: tuple[int, ...], reason: str) -> None:
    refused(array(shape=shape(*extents)) + b".", reason)


@pytest.mark.parametrize(
    "strange",
    [
        pytest.param(b"K\x02", id="a number"),
        pytest.param(b"](K\x02e", id="a list"),
        pytest.param(b"N", id="None"),
        pytest.param(b"\x88\x85", id="True"),
        pytest.param(b"G@" + bytes(7) + b"\x85", id="a float"),
        pytest.param(b"U\x012\x85", id="text"),
        pytest.param(array() + b"\x85", id="an array"),
        pytest.param(b"K\x02\x85\x85", id="a tuple in the tuple"),
    ],
)
def test_shapes_that_are_none(strange: bytes) -> None:
    refused(array(shape=strange) + b".", "shape")


def test_many_arrays_over_the_same_bytes() -> None:
    # Arrays of 10,000 bytes each, out of one string that is written once.
    first = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85q\x03U\x01bq\x04"
        b"\x87R(K\x01M\x10\x27\x85q\x05cnumpy\ndtype\nU\x02u1K\x00K\x01\x87Rq\x06"
        b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        + string(bytes(10_000))
        + b"q\x07tb"
    )
    again = b"h\x01h\x02h\x03h\x04\x87R(K\x01h\x05h\x06\x89h\x07tb"
    assert len(read_pickle_bytes(b"(" + first + again * 9 + b"l.")) == 10
    refused(b"(" + first + again * 15_000 + b"l.", "in several places is more than the file")


def test_arrays_without_elements_cost_nothing() -> None:
    data = ENCODE + text("") + text("latin1") + b"\x86R"
    many = array(shape=shape(2**20, 0, 2**20), data=data)
    assert read_pickle_bytes(many + b".").size == 0
    refused(array(shape=shape(0, 2**62), data=data) + b".", "does not fit its 0 bytes")


def test_keys_that_are_chosen_to_collide() -> None:
    # Python's hash of an integer is the integer: these all want the same place in any dict.
    keys = b"".join(integer(number << 40) + b"N" for number in range(1500))
    refused(b"}(" + keys + b"u.", "a dict with more than 1000 integers as keys")
    one_by_one = b"".join(integer(number << 40) + b"Ns" for number in range(1500))
    refused(b"}" + one_by_one + b".", "a dict with more than 1000 integers as keys")


def test_one_long_text_decoded_many_times() -> None:
    long = ENCODE + b"q\x00" + text("\0" * 100_000) + b"q\x01" + text("latin1") + b"q\x02\x86R"
    refused(b"(" + long + b"h\x00h\x01h\x02\x86R" * 1000 + b"l.", "more bytes than the file")


def test_line_without_an_end() -> None:
    for opcode in (b"I", b"L", b"F", b"S", b"V", b"c", b"cos\n", b"i", b"p", b"g", b"P"):
        refused(opcode + b"1" * 100_000, "goes beyond the end")


def test_frames_that_promise_more_than_there_is() -> None:
    refused(b"\x80\x04\x95" + struct.pack("<Q", 100) + b"N.", "FRAME goes beyond the end")
    assert read_pickle_bytes(b"\x80\x04\x95" + struct.pack("<Q", 2) + b"N.") is None
