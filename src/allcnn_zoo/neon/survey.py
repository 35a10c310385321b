"""What any pickle contains, safe or not, told without executing or building any of it."""

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice

from ..errors import UnsafePickleError
from .files import DEFAULT_MAX_BYTES, read_file
from .opcodes import Opcode, read_opcodes
from .unpickle import read_pickle_bytes

# A hostile file may be nothing but names or opcodes: these bound memory and time.
_MAX_NAMES = 100
_MAX_NAME_LENGTH = 200
_MAX_OPCODES = 5_000_000
_MAX_MEMO = 100_000


@dataclass(frozen=True)
class PickleSurvey:
    """What was found in a file that is, or claims to be, a pickle.

    Attributes:
        size: Bytes in the file.
        protocol: The protocol it declares; None where it declares none (protocols 0 and 1).
        opcodes: How often each opcode occurs, the most frequent first.
        globals: The names it would have Python import, such as ``"os.system"``, each once.
        complete: Whether that is all there is: False if the counting stopped at a malformed
            opcode or after five million, or if more than a hundred names occur.
        refusal: Why `read_pickle` refuses the file; None for a file that it reads.
    """

    size: int
    protocol: int | None
    opcodes: Mapping[str, int]
    globals: tuple[str, ...]
    complete: bool
    refusal: str | None

    @property
    def is_safe(self) -> bool:
        """Whether it holds plain values and arrays only, so that `read_pickle` reads it."""
        return self.refusal is None


def survey(path: str | os.PathLike[str], *, max_bytes: int = DEFAULT_MAX_BYTES) -> PickleSurvey:
    """Report what a pickle contains, in bounded time and memory, executing nothing.

    Args:
        path: Any file.
        max_bytes: Refuse a larger file without reading it.

    Returns:
        The findings; a hostile or broken pickle is reported, not raised.

    Raises:
        NeonError: The file is missing, unreadable or not a regular file.
        UnsafePickleError: It is empty, too large, or recognisably another format.
    """
    return survey_bytes(read_file(path, max_bytes=max_bytes))


def survey_bytes(data: bytes) -> PickleSurvey:
    """Report what a pickle in memory contains; see `survey`."""
    refusal = _refusal(data)
    findings = _Findings()
    try:
        for opcode in islice(read_opcodes(data), _MAX_OPCODES):
            findings.note(opcode)
        malformed = False
    except UnsafePickleError:
        malformed = True  # the refusal tells of the same, or of something before it
    return PickleSurvey(
        size=len(data),
        protocol=findings.protocol,
        opcodes=dict(findings.opcodes.most_common()),
        globals=tuple(findings.names),
        complete=not malformed and "STOP" in findings.opcodes and not findings.more_names,
        refusal=refusal,
    )


def _refusal(data: bytes) -> str | None:
    try:
        read_pickle_bytes(data)
    except UnsafePickleError as error:
        return str(error)
    return None


@dataclass
class _Findings:
    protocol: int | None = None
    opcodes: Counter[str] = field(default_factory=Counter)
    names: dict[str, None] = field(default_factory=dict)  # a set that keeps its order
    more_names: bool = False
    # STACK_GLOBAL takes its names from the stack, so the last two texts pushed are followed, also
    # through the memo. A name that a file computes otherwise is reported as unknown.
    last_texts: tuple[str, str] = ("?", "?")
    memo: dict[int, str] = field(default_factory=dict)
    memoized: int = 0

    def note(self, opcode: Opcode) -> None:
        _, name, argument = opcode
        self.opcodes[name] += 1
        if name == "PROTO" and isinstance(argument, int):
            self.protocol = argument
        elif isinstance(argument, tuple):  # GLOBAL and INST
            self._note_name(_text(argument[0]), _text(argument[1]))
        elif name == "STACK_GLOBAL":
            self._note_name(*self.last_texts)
        elif name.startswith("EXT"):
            self._note_name("extension registry", str(argument))
        self._follow_texts(opcode)

    def _note_name(self, module: str, name: str) -> None:
        if len(self.names) < _MAX_NAMES:
            self.names[f"{module}.{name}"] = None
        else:
            self.more_names |= f"{module}.{name}" not in self.names

    def _follow_texts(self, opcode: Opcode) -> None:
        _, name, argument = opcode
        if name == "MEMOIZE" or name.endswith("PUT"):
            index = self.memoized if name == "MEMOIZE" else _index(argument)
            self.memoized += 1
            if len(self.memo) < _MAX_MEMO:
                self.memo[index] = self.last_texts[1]
        elif name.endswith("GET"):
            self.last_texts = (self.last_texts[1], self.memo.get(_index(argument), "?"))
        elif isinstance(argument, memoryview):
            self.last_texts = (self.last_texts[1], _text(argument))
        elif name != "FRAME":
            self.last_texts = ("?", "?")


def _text(view: memoryview) -> str:
    """The beginning of a text in printable ASCII."""
    return ascii(str(view[:_MAX_NAME_LENGTH], "utf-8", "replace"))[1:-1]


def _index(argument: object) -> int:
    if isinstance(argument, int):
        return argument
    digits = bytes(argument[:20]) if isinstance(argument, memoryview) else b""
    return int(digits) if digits.isdigit() else -1
