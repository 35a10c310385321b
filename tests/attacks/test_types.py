"""Opcodes applied to things they are not meant for."""

import pytest

from .assemble import DTYPE, ENCODE, LITTLE_ENDIAN, NDARRAY, array, refused, text


@pytest.mark.parametrize(
    ("attack", "reason"),
    [
        (b"}Na.", "appended to a dict of 0, which is no list"),
        (b"N(Ne.", "appended to None, which is no list"),
        (b")Na.", "appended to a tuple of 0"),
        (NDARRAY + b"Na.", "appended to the name numpy.ndarray"),
        (array() + b"Na.", "appended to a float32 array"),
        (b"U\x03absNa.", "appended to 'abs'"),
        (b"]U\x01kNs.", "set in a list of 0, which is no dict"),
        (b"](U\x01kNu.", "set in a list of 0, which is no dict"),
        (array() + b"K\x00Ns.", "set in a float32 array"),
        (NDARRAY + b"U\x01kNs.", "set in the name numpy.ndarray"),
        (b"Na.", "appended to None"),
        (b"a.", "finds nothing on the stack"),
        (b"(Ne.", "appended to None"),
        (b"e.", "finds no mark"),
        (b"u.", "finds no mark"),
        (b"t.", "finds no mark"),
        (b"R.", "finds nothing"),
        (b"b.", "finds nothing"),
        (b".", "finds nothing"),
        (b"(.", "finds nothing"),
        (b"NN.", "values left over"),
        (b"N(N.", "values left over"),
        (b"}(Nu.", "a key without a value"),
        (b"(Nd.", "a key without a value"),
    ],
)
def test_containers_take_only_what_is_theirs(attack: bytes, reason: str) -> None:
    refused(attack, reason)


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(b"N", id="None"),
        pytest.param(b"\x88", id="True"),
        pytest.param(b"G" + bytes(8), id="float"),
        pytest.param(b"C\x01k", id="bytes"),
        pytest.param(b")", id="tuple"),
        pytest.param(b"]", id="list"),
        pytest.param(b"}", id="dict"),
        pytest.param(NDARRAY, id="name"),
        pytest.param(array(), id="array"),
        pytest.param(b"T\xd0\x07\x00\x00" + bytes(2000), id="the data of an array"),
    ],
)
def test_keys_are_text_or_integers(key: bytes) -> None:
    refused(b"}" + key + b"Ns.", "is used as a key")


def test_a_key_is_set_once() -> None:
    refused(b"}U\x01kK\x01sU\x01kK\x02s.", "the key 'k' is set twice")
    refused(b"(U\x01kK\x01U\x01kK\x02d.", "the key 'k' is set twice")


DTYPES = {
    "objects": b"U\x01O",
    "objects with a size": b"U\x02O8",
    "a structure": b"U\x02V8",
    "text": b"U\x02S4",
    "unicode": b"U\x02U4",
    "dates": b"U\x02M8",
    "complex": b"U\x02c8",
    "long double": b"U\x03f16",
    "a byte order inside": b"U\x03<f4",
    "a list of fields": b"]U\x01aU\x01O\x86a",
    "an expression": b"U\x07f4,(2)O",
    "a number": b"K\x04",
    "an array": array(),
}


@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_are_of_plain_numbers(dtype: str) -> None:
    refused(array(dtype=DTYPE + DTYPES[dtype] + b"K\x00K\x01\x87R" + LITTLE_ENDIAN) + b".", "dtype")


def _state(order: bytes = b"U\x01<", fields: bytes = b"NNN", sizes: bytes = b"") -> bytes:
    sizes = sizes or b"J\xff\xff\xff\xff" * 2 + b"K\x00"
    return DTYPE + b"U\x02f4K\x00K\x01\x87R(K\x03" + order + fields + sizes + b"tb"


@pytest.mark.parametrize(
    "dtype",
    [
        pytest.param(_state(order=b"U\x01="), id="native byte order"),
        pytest.param(_state(order=b"U\x01|"), id="no byte order"),
        pytest.param(_state(order=b"N"), id="None as byte order"),
        pytest.param(_state(order=array()), id="an array as byte order"),
        pytest.param(_state(fields=b"NU\x01a" + b"}"), id="fields"),
        pytest.param(_state(fields=b"U\x01xNN"), id="a subarray"),
        pytest.param(_state(fields=array() + b"NN"), id="an array as subarray"),
        pytest.param(_state(sizes=b"K\x08K\x04K\x00"), id="another size"),
        pytest.param(_state(sizes=b"J\xff\xff\xff\xff" * 2 + b"K\x3f"), id="object flags"),
        pytest.param(_state(sizes=b"J\xff\xff\xff\xff" * 2 + b"K\x00N"), id="metadata"),
        pytest.param(DTYPE + b"U\x02f4K\x00K\x02\x87R", id="another copy flag"),
        pytest.param(DTYPE + b"U\x02f4K\x00K\x00\x87R" + LITTLE_ENDIAN, id="numpy's own dtype"),
        pytest.param(DTYPE + b"U\x02f4K\x01K\x01\x87R" + LITTLE_ENDIAN, id="an aligned dtype"),
        pytest.param(DTYPE + b"U\x02f4\x85R", id="no flags"),
        pytest.param(DTYPE + b")R", id="no arguments"),
        pytest.param(DTYPE + b"U\x02f4K\x00K\x01\x87R", id="no state"),
        pytest.param(b"U\x02f4", id="text"),
        pytest.param(b"N", id="None"),
    ],
)
def test_dtypes_are_complete_and_plain(dtype: bytes) -> None:
    refused(array(dtype=dtype) + b".", "dtype")


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"U\x07" + bytes(7), id="too short"),
        pytest.param(b"U\x09" + bytes(9), id="too long"),
        pytest.param(b"N", id="None"),
        pytest.param(b"]", id="a list, as of objects"),
        pytest.param(b"K\x08", id="a number"),
        pytest.param(array(), id="an array"),
        pytest.param(text("\N{EURO SIGN}" * 8), id="text beyond Latin-1"),
        pytest.param(text("\0" * 4000), id="long text that was not encoded"),
        pytest.param(b"T\xd0\x07\x00\x00" + bytes(2000), id="far too long"),
    ],
)
def test_the_data_of_an_array_are_exactly_its_bytes(data: bytes) -> None:
    refused(array(data=data) + b".", "does not fit its|in place of its data|beyond Latin-1")


@pytest.mark.parametrize(
    "written",
    [
        pytest.param(text("\0" * 1999), id="too short"),
        pytest.param(text("\0" * 2001), id="too long"),
        pytest.param(text("\xff" * 1500), id="too short although it takes more bytes"),
        pytest.param(text("\0" * 1999 + "\N{EURO SIGN}"), id="beyond Latin-1"),
        pytest.param(b"X\xd0\x07\x00\x00" + b"\xff" * 2000, id="not UTF-8"),
        pytest.param(b"X\xd0\x07\x00\x00" + bytes(1999) + b"\xc3", id="half a character"),
        pytest.param(b"V" + b"x" * 1999 + b"\\ud800\n", id="half a surrogate pair"),
        pytest.param(b"V" + b"x" * 2000 + b"\\u0\n", id="half an escape"),
    ],
)
def test_text_for_the_data_of_an_array_is_exactly_its_bytes(written: bytes) -> None:
    data = ENCODE + written + text("latin1") + b"\x86R"
    shape = b"M\xf4\x01\x85"
    reason = "does not fit its|text beyond Latin-1|not valid Unicode"
    refused(array(shape=shape, data=data) + b".", reason)


def test_booleans_are_zero_or_one() -> None:
    boolean = DTYPE + b"U\x02b1K\x00K\x01\x87R" + LITTLE_ENDIAN.replace(b"<", b"|")
    refused(array(dtype=boolean, data=b"U\x02\x01\x02") + b".", "booleans")


def test_text_that_nobody_can_print_is_refused() -> None:
    refused(b"X\x03\x00\x00\x00\xed\xa0\x80.", "not valid Unicode")
    refused(b"V\\ud800\n.", "not valid Unicode")
    refused(b"V\\u12\n.", "not valid Unicode")
    refused(b"X\x01\x00\x00\x00\xff.", "not valid Unicode")


@pytest.mark.parametrize(
    "string",
    [b"S\n", b"S'\n", b"S'a\n", b"Sabc\n", b"S'a\"\n", b"S'\\d'\n", b"S'\\x4'\n", b"S'\\'\n"],
)
def test_strings_of_protocol_0_are_as_python_2_writes_them(string: bytes) -> None:
    refused(string + b".", "a string")


@pytest.mark.parametrize(
    "number",
    [
        *(
            b"I1_0\n",
            b"I0x10\n",
            b"I\n",
            b"I 1\n",
            b"I010\n",
            b"I08\n",
            b"I-0\n",
            b"I+1\n",
            b"I1L\n",
        ),
        *(b"L1\xc2\xb2L\n", b"L1e9L\n", b"L010L\n", b"L-0L\n", b"L1l\n"),
        *(b"Fone\n", b"F\n", b"F1_0.0\n", b"Fnan \n", b"F1e999\n", b"F0x1p3\n", b"F1.50\n"),
    ],
)
def test_numbers_are_as_python_writes_them(number: bytes) -> None:
    refused(number + b".", "no (integer|number)")
