"""Hostile pickles are assembled by hand, opcode by opcode."""

import struct

import pytest

from allcnn_zoo.errors import UnsafePickleError
from allcnn_zoo.neon import read_pickle

PROTO = b"\x80\x02"
RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\n"
NDARRAY = b"cnumpy\nndarray\n"
DTYPE = b"cnumpy\ndtype\n"
ENCODE = b"c_codecs\nencode\n"
FLOAT32 = DTYPE + b"U\x02f4K\x00K\x01\x87R"
LITTLE_ENDIAN = b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
EMPTY_ARRAY = RECONSTRUCT + NDARRAY + b"K\x00\x85U\x01b\x87R"


def integer(value: int) -> bytes:
    """Any integer, as protocol 2 writes long ones."""
    length = value.bit_length() // 8 + 1
    return b"\x8b" + struct.pack("<i", length) + value.to_bytes(length, "little", signed=True)


def string(data: bytes) -> bytes:
    """A Python 2 string."""
    return b"T" + struct.pack("<i", len(data)) + data


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def shape(*extents: int) -> bytes:
    return b"(" + b"".join(map(integer, extents)) + b"t"


def array(
    *,
    shape: bytes = b"K\x02\x85",
    dtype: bytes = FLOAT32 + LITTLE_ENDIAN,
    order: bytes = b"\x89",
    data: bytes = b"U\x08" + bytes(8),
) -> bytes:
    """An array of two zeros as numpy 1 writes it, any part of which may be replaced."""
    return EMPTY_ARRAY + b"(K\x01" + shape + dtype + order + data + b"tb"


def refused(data: bytes, reason: str | None = None) -> str:
    """The one-line reason for which a pickle is refused."""
    with pytest.raises(UnsafePickleError, match=reason) as caught:
        read_pickle(data)
    message = str(caught.value)
    assert message.isprintable()
    assert message.isascii()
    assert len(message) < 300
    return message
