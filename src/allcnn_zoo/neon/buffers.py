"""Strings too long to be values: the data of arrays, kept as views until their size is known.

Python 2 stores an array's bytes plainly. Python 3 before protocol 3 has no bytes and stores them as
text in which each character stands for a byte (Latin-1), itself encoded as UTF-8 or, in protocol 0,
with escapes. Protocol 0 of Python 2 has escapes of its own.
"""

import codecs
import re
from typing import Literal, TypeAlias

Encoding: TypeAlias = Literal["utf-8", "raw-unicode-escape"]

# Looked up now, because Python imports a codec when it is first asked for it, and no file shall
# decide what is imported.
_DECODERS = {name: codecs.getincrementaldecoder(name) for name in ("utf-8", "raw-unicode-escape")}
_CHUNK = 1 << 20  # decoding in pieces keeps memory at one copy of the data


class Buffer:
    """Bytes as they stand in the file, or text that stands for bytes.

    Attributes:
        view: What the file has.
        encoding: How text is encoded; None for bytes.
    """

    __slots__ = ("encoding", "view")

    def __init__(self, view: memoryview, encoding: Encoding | None = None) -> None:
        self.view = view
        self.encoding = encoding

    def data(self, size: int) -> memoryview | bytearray | None:
        """The bytes meant, if there are exactly `size`; a view if they are stored plainly."""
        if self.encoding is None:
            return self.view if len(self.view) == size else None
        if size > len(self.view):  # every character takes at least one byte
            return None
        try:
            return self._decode(size, self.encoding)
        except UnicodeError:
            return None

    def _decode(self, size: int, encoding: Encoding) -> bytearray | None:
        data = bytearray(size)
        filled = 0
        decoder = _DECODERS[encoding]()
        for start in range(0, len(self.view), _CHUNK):
            final = start + _CHUNK >= len(self.view)
            piece = decoder.decode(self.view[start : start + _CHUNK], final).encode("latin-1")
            if filled + len(piece) > size:
                return None
            data[filled : filled + len(piece)] = piece
            filled += len(piece)
        return data if filled == size else None


_ESCAPED = re.compile(rb"(?:[^\\]|\\[\\'\"nrt]|\\x[0-9a-f]{2}){1,65536}", re.DOTALL)


def unescape(view: memoryview) -> bytearray:
    """Undo Python 2's ``repr`` of a string.

    Args:
        view: What is between the quotes.

    Returns:
        The string's bytes.

    Raises:
        ValueError: There is an escape that Python 2 never writes.
    """
    data = bytearray()
    position = 0
    while position < len(view):
        match = _ESCAPED.match(view, position)
        if match is None:
            raise ValueError
        data += codecs.escape_decode(match[0])[0]
        position = match.end()
    return data
