"""Opcodes applied to things they are not meant for."""

import numpy as np
import pytest

from allcnn_zoo.neon import read_pickle

from .assemble import (
    DTYPE,
    ENCODE,
    LITTLE_ENDIAN,
    NDARRAY,
    PROTO,
    array,
    integer,
    refused,
    shape,
    string,
    text,
)


def test_without_what_is_wrong_with_them_the_attacks_are_read() -> None:
    written_by_python_3 = ENCODE + text("\0" * 8) + text("latin1") + b"\x86R"
    for whole in (
        array(),
        array(shape=shape(2)),
        array(data=string(bytes(8))),
        array(data=written_by_python_3),
        array(dtype=_dtype()),
    ):
        np.testing.assert_array_equal(read_pickle(PROTO + whole + b"."), [0, 0])
    values = read_pickle(b"(" + integer(-5) + string(b"a") + text("b") + b"l.")
    assert values == [-5, "a", "b"]


LONG_STRING = string(bytes(2000))


@pytest.mark.parametrize(
    ("attack", "reason"),
    [
        (b"}Na.", "appended to a dict of 0, which is not a list"),
        (b"N(Ne.", "appended to None, which is not a list"),
        (b")Na.", "appended to a tuple of 0"),
        (NDARRAY + b"Na.", "appended to the name numpy.ndarray"),
        (array() + b"Na.", "appended to a float32 array"),
        (b"U\x03absNa.", "appended to 'abs'"),
        (b"]U\x01kNs.", "set in a list of 0, which is not a dict"),
        (b"](U\x01kNu.", "set in a list of 0, which is not a dict"),
        (array() + b"K\x00Ns.", "set in a float32 array"),
        (NDARRAY + b"U\x01kNs.", "set in the name numpy.ndarray"),
        (b"Na.", "appended to None"),
        (b"a.", "finds nothing on the stack"),
        (b"(Ne.", "appended to None"),
        *((opcode + b".", "finds no mark") for opcode in (b"e", b"u", b"t")),
        *((opcode, "finds nothing") for opcode in (b"R.", b"b.", b".", b"(.")),
        (b"NN.", "values left over"),
        (b"N(N.", "values left over"),
        (b"}(Nu.", "a key without a value"),
        (b"(Nd.", "a key without a value"),
        *(
            (b"}" + key + b"Ns.", "is used as a key")
            for key in (b"N", b"\x88", b"G" + bytes(8), b"C\x01k", b")", b"]", b"}", NDARRAY)
        ),
        (b"}" + array() + b"Ns.", "is used as a key"),
        (b"}" + LONG_STRING + b"Ns.", "is used as a key"),
        (b"}U\x01kK\x01sU\x01kK\x02s.", "the key 'k' is set twice"),
        (b"(U\x01kK\x01U\x01kK\x02d.", "the key 'k' is set twice"),
    ],
)
def test_containers_take_only_what_is_theirs(attack: bytes, reason: str) -> None:
    refused(attack, reason)


MINUS_ONES = b"J\xff\xff\xff\xff" * 2


def _dtype(
    code: bytes = b"U\x02f4",
    flags: bytes = b"K\x00K\x01",
    order: bytes = b"U\x01<",
    fields: bytes = b"NNN",
    sizes: bytes = MINUS_ONES + b"K\x00",
) -> bytes:
    """A dtype as numpy 1 writes it, any part of which may be replaced."""
    return DTYPE + b"(" + code + flags + b"tR(K\x03" + order + fields + sizes + b"tb"


DTYPES = {
    "objects": _dtype(b"U\x01O"),
    "objects with a size": _dtype(b"U\x02O8"),
    "a structure": _dtype(b"U\x02V8"),
    "text": _dtype(b"U\x02S4"),
    "unicode": _dtype(b"U\x02U4"),
    "dates": _dtype(b"U\x02M8"),
    "complex": _dtype(b"U\x02c8"),
    "long double": _dtype(b"U\x03f16"),
    "a byte order inside": _dtype(b"U\x03<f4"),
    "a list of fields": _dtype(b"]U\x01aU\x01O\x86a"),
    "an expression": _dtype(b"U\x07f4,(2)O"),
    "a number": _dtype(b"K\x04"),
    "an array": _dtype(array()),
    "native byte order": _dtype(order=b"U\x01="),
    "no byte order": _dtype(order=b"U\x01|"),
    "two byte orders": _dtype(order=b"U\x02<>"),
    "None as byte order": _dtype(order=b"N"),
    "an array as byte order": _dtype(order=array()),
    "fields": _dtype(fields=b"NU\x01a}"),
    "a subarray": _dtype(fields=b"U\x01xNN"),
    "an array as subarray": _dtype(fields=array() + b"NN"),
    "another size": _dtype(sizes=b"K\x08K\x04K\x00"),
    "object flags": _dtype(sizes=MINUS_ONES + b"K\x3f"),
    "metadata": _dtype(sizes=MINUS_ONES + b"K\x00N"),
    "another copy flag": _dtype(flags=b"K\x00K\x02"),
    "numpy's own dtype": _dtype(flags=b"K\x00K\x00"),
    "an aligned dtype": _dtype(flags=b"K\x01K\x01"),
    "no flags": _dtype(flags=b""),
    "no arguments": DTYPE + b")R",
    "no state": DTYPE + b"(U\x02f4K\x00K\x01tR",
    "only text": b"U\x02f4",
    "None": b"N",
}


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_dtypes_are_complete_and_of_plain_numbers(dtype: bytes) -> None:
    refused(array(dtype=dtype) + b".", "dtype")


def _encoded(written: bytes) -> bytes:
    return ENCODE + written + text("latin1") + b"\x86R"


@pytest.mark.parametrize(
    "data",
    [
        string(bytes(1999)),
        string(bytes(2001)),
        b"N",
        b"]",  # as of objects
        b"K\x08",
        array(),
        text("\N{EURO SIGN}" * 2000),
        _encoded(text("\0" * 1999)),
        _encoded(text("\0" * 2001)),
        _encoded(text("\xff" * 1500)),  # too short although it takes more bytes
        _encoded(text("\0" * 1999 + "\N{EURO SIGN}")),
        _encoded(b"X\xd0\x07\x00\x00" + b"\xff" * 2000),
        _encoded(b"X\xd0\x07\x00\x00" + bytes(1999) + b"\xc3"),  # half a character
        _encoded(b"V" + b"x" * 1999 + b"\\ud800\n"),  # half a surrogate pair
        _encoded(b"V" + b"x" * 2000 + b"\\u0\n"),  # half an escape
    ],
)
def test_the_data_of_an_array_are_exactly_its_bytes(data: bytes) -> None:
    reason = "does not fit its|in place of its data|text beyond Latin-1|not valid Unicode"
    refused(array(shape=shape(500), data=data) + b".", reason)


def test_booleans_are_zero_or_one() -> None:
    boolean = DTYPE + b"U\x02b1K\x00K\x01\x87R" + LITTLE_ENDIAN.replace(b"<", b"|")
    refused(array(dtype=boolean, data=b"U\x02\x01\x02") + b".", "booleans")


@pytest.mark.parametrize(
    ("kind", "spellings"),
    [
        ("not valid Unicode", [b"X\3\0\0\0\xed\xa0\x80", b"X\1\0\0\0\xff", b"V\\ud800\n"]),
        ("a string", [b"S\n", b"S'\n", b"S'a\n", b"Sabc\n", b"S'a\"\n", b"S'\\d'\n", b"S'\\x4'\n"]),
        ("a string|escape", [b"S'\\'\n", b"S'\\\\\\d'\n", b"S'\\101'\n", b"S'\\x4\\\\1'\n"]),
        ("not a number", [b"I1_0\n", b"I0x10\n", b"I\n", b"I 1\n", b"I010\n", b"I08\n", b"I-0\n"]),
        ("not a number", [b"I+1\n", b"I1L\n", b"L1\xc2\xb2L\n", b"L1e9L\n", b"L010L\n", b"L-0L\n"]),
        ("not a number", [b"L1l\n", b"I\xd9\xa1\n", b"Fone\n", b"F\n", b"F1_0.0\n", b"Fnan \n"]),
        ("not a number", [b"F1e999\n", b"F0x1p3\n", b"F1.50\n", b"I011\n", b"I000\n"]),
    ],
)  # fmt: skip
def test_text_and_numbers_are_as_python_writes_them(kind: str, spellings: list[bytes]) -> None:
    for spelling in spellings:
        refused(spelling + b".", kind)
