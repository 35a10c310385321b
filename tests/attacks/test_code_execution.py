"""Every opcode that can name, call or build something, used to run code."""

import os
import pickle
import subprocess
from typing import Any

import numpy as np
import pytest

from .assemble import (
    DTYPE,
    ENCODE,
    FLOAT32,
    LITTLE_ENDIAN,
    NDARRAY,
    RECONSTRUCT,
    array,
    integer,
    refused,
    shape,
    text,
)

SYSTEM = b"cos\nsystem\n"
SYSTEM_ON_STACK = b"\x8c\x02os\x8c\x06system\x93"
COMMAND = b"U\x04true"

BY_OPCODE = {
    "GLOBAL": SYSTEM + b".",
    "GLOBAL and REDUCE": SYSTEM + COMMAND + b"\x85R.",
    "STACK_GLOBAL": SYSTEM_ON_STACK + COMMAND + b"\x85R.",
    "STACK_GLOBAL from the memo": b"\x8c\x06system\x94\x8c\x02os\x94h\x00\x93.",
    "STACK_GLOBAL from escaped text": b"Vo\\u0073\nVsystem\n\x93.",
    "STACK_GLOBAL of bytes": b"C\x02osC\x06system\x93.",
    "STACK_GLOBAL of numbers": b"K\x01K\x02\x93.",
    "INST": b"(" + COMMAND + b"ios\nsystem\n.",
    "INST of a known name": b"(inumpy\nndarray\n.",
    "OBJ": b"(" + SYSTEM + COMMAND + b"o.",
    "OBJ of a known name": b"(" + NDARRAY + b"o.",
    "NEWOBJ": NDARRAY + b")\x81.",
    "NEWOBJ_EX": NDARRAY + b")}\x92.",
    "EXT1": b"\x82\x01)R.",
    "EXT2": b"\x83\x01\x00)R.",
    "EXT4": b"\x84\x01\x00\x00\x00)R.",
    "PERSID": b"Pos.system\n.",
    "BINPERSID": COMMAND + b"Q.",
    "BUILD of a dict": b"}}b.",
    "BUILD with slots": NDARRAY + b"(N}U\x0c__setstate__" + b"K\x01stb.",
    "BUILD of __setstate__": RECONSTRUCT + b"}U\x0c__setstate__K\x01sb.",
    "REDUCE of text": COMMAND + b")R.",
    "REDUCE without arguments": NDARRAY + b"NR.",
    "REDUCE with a list": DTYPE + b"]R.",
    "NEXT_BUFFER": b"\x97.",
    "READONLY_BUFFER": b"\x98.",
}


@pytest.mark.parametrize("attack", BY_OPCODE)
def test_no_opcode_runs_code(attack: str) -> None:
    refused(b"\x80\x04" + BY_OPCODE[attack])
    refused(BY_OPCODE[attack])


NAMES = [
    "os.system",
    "posix.system",
    "subprocess.Popen",
    "builtins.eval",
    "__builtin__.eval",
    "builtins.getattr",
    "copyreg._reconstructor",
    "copy_reg._reconstructor",
    "numpy.load",
    "numpy.core.multiarray.fromstring",
    "numpy.testing._private.utils.runstring",
    "numpy.f2py.crackfortran.param_eval",
    "numpy.core.multiarray._reconstruct.__globals__",
    "numpy.ndarray.__reduce__",
    "numpy.matrix",
    "numpy.memmap",
    "numpy.lib.format.open_memmap",
    "_codecs.decode",
    "codecs.encode",
    "_codecs.encode ",
    " _codecs.encode",
    "torch._utils._rebuild_tensor_v2",
    "torch.load",
    "pickle.loads",
    "marshal.loads",
    "types.FunctionType",
    "allcnn_zoo.neon.unpickle.read_pickle",
    "collections.deque",
    "builtins.bytes",
    "neon.layers",
    "neonate.layers.layer.Linear",
    "neon.layers.recurrent.GRU ",
    "neon.layers.recurrent.GRU" + "U" * 200,
    "neon.\N{GREEK SMALL LETTER ALPHA}.layer.Linear",
]


@pytest.mark.parametrize("name", NAMES)
def test_only_numpys_own_names_are_known(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    refused(f"c{module}\n{attribute}\n.".encode(), "the file names")
    refused(text(module) + text(attribute) + b"\x93.", "the file names")


def test_dotted_names_do_not_reach_inside_known_modules() -> None:
    refused(b"cnumpy\nndarray.__init__\n.", "the file names 'numpy.ndarray.__init__'")
    refused(b"cnumpy\ncore.multiarray._reconstruct\n.", "the file names")
    refused(b"cnumpy.core\nmultiarray._reconstruct\n.", "the file names")


def test_names_with_other_letters_that_look_alike_are_others() -> None:
    refused("cnump\N{CYRILLIC SMALL LETTER U}\nndarray\n.".encode(), "the file names")
    refused(b"cnumpy\r\nndarray\n.", "the file names")
    refused(b"cnumpy\nndarray\x00\n.", "the file names")


class _Runs:
    def __init__(self, *reduced: Any) -> None:
        self.reduced = reduced

    def __reduce__(self) -> tuple[Any, ...]:
        return self.reduced


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "call",
    [
        (os.system, ("true",)),
        (subprocess.Popen, (["true"],)),
        (eval, ("1",)),
        (getattr, ("x", "upper")),
        (np.dtype, ("O",)),
        (np.frombuffer, (b"1234",)),
        (bytes.fromhex, ("00",)),
    ],
)
def test_objects_that_run_code_when_loaded(call: tuple[Any, ...], protocol: int) -> None:
    refused(pickle.dumps([_Runs(*call)], protocol))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_objects_outside_the_closed_world(protocol: int) -> None:
    for strange in (object(), {1}, frozenset({1}), 1j, print, int, range(3), ...):
        refused(pickle.dumps({"key": strange}, protocol))


# Known names called in other ways than numpy calls them.

GRU = b"cneon.layers.recurrent\nGRU\n"
ORDERED = b"ccollections\nOrderedDict\n"
MISUSES = {
    "a call of a class of neon": GRU + b")R.",
    "an object of a class of neon": GRU + b")\x81.",
    "an instance of a class of neon": b"(" + GRU + b"o.",
    "a state on a class of neon": GRU + b"}b.",
    "a dict from a list of numbers": ORDERED + b"](K\x01K\x02e\x85R.",
    "a dict from triples": ORDERED + b"]](K\x01K\x02K\x03ea\x85R.",
    "a dict from a dict": ORDERED + b"}\x85R.",
    "a dict with a state": ORDERED + b")R}b.",
    "bytes of a number": b"c__builtin__\nbytes\nK\x09\x85R.",
    "an array with two states": array(shape=shape(2)) + b"(K\x01K\x02\x85tb.",
    "an array with another version of state": array().replace(
        b"(K\x01K\x02\x85c", b"(K\x02K\x02\x85c"
    )
    + b".",
    "an array in an order of 2^64-1": array(order=integer(2**64 - 1)) + b".",
    "an array in an order of 2": array(order=b"K\x02") + b".",
    "a subclass of ndarray": RECONSTRUCT + DTYPE + b"K\x00\x85U\x01b\x87R.",
    "an array of another initial shape": RECONSTRUCT + NDARRAY + b"K\x05\x85U\x01b\x87R.",
    "an array of another initial type": RECONSTRUCT + NDARRAY + b"K\x00\x85U\x01O\x87R.",
    "an array without arguments": RECONSTRUCT + b")R.",
    "an array with an array as shape": RECONSTRUCT + NDARRAY + array() + b"\x85U\x01b\x87R.",
    "the type ndarray itself": NDARRAY + b"K\x05\x85R.",
    "another codec": ENCODE + b"X\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R.",
    "a codec that decompresses": ENCODE + b"C\x01aX\x04\x00\x00\x00zlib\x86R.",
    "encoding a number": ENCODE + b"K\x01X\x06\x00\x00\x00latin1\x86R.",
    "encoding what Latin-1 lacks": ENCODE
    + b"X\x03\x00\x00\x00\xe2\x82\xacX\x06\x00\x00\x00latin1\x86R.",
    "three arguments to encode": ENCODE + b"VV\nVlatin1\nVignore\n\x87R.",
    "an array on which a state is set twice": array() + b"(K\x01K\x02\x85tb.",
    "a state on a dtype that has one": FLOAT32 + LITTLE_ENDIAN + LITTLE_ENDIAN + b".",
    "a state on a name": RECONSTRUCT + LITTLE_ENDIAN + b".",
    "a name as a value": b"]" + NDARRAY + b"a.",
    "a dtype as a value": b"]" + FLOAT32 + LITTLE_ENDIAN + b"a.",
    "a name as the whole": NDARRAY + b".",
    "a name inside a tuple": b"]" + NDARRAY + b"\x85\x85a.",
    "an unfinished array as a value": b"]" + RECONSTRUCT + NDARRAY + b"K\x00\x85U\x01b\x87Ra.",
    "a scalar without arguments": b"cnumpy.core.multiarray\nscalar\n)R.",
    "a buffer without arguments": b"cnumpy.core.numeric\n_frombuffer\n)R.",
    "a state on an array with no state": (RECONSTRUCT + NDARRAY + b"K\x00\x85U\x01b\x87R)b."),
    "a state on an unfinished array": b"]" + RECONSTRUCT + NDARRAY + b"K\x00\x85U\x01b\x87R]b.",
    "a scalar of an unfinished dtype": b"cnumpy.core.multiarray\nscalar\n"
    + FLOAT32
    + b"U\x04abcd\x86R.",
    "a scalar of other length": (
        b"cnumpy.core.multiarray\nscalar\n" + FLOAT32 + LITTLE_ENDIAN + b"U\x03abc\x86R."
    ),
    "a buffer of other length": (
        b"cnumpy.core.numeric\n_frombuffer\n(C\x04abcd"
        + FLOAT32
        + LITTLE_ENDIAN
        + b"K\x02\x85U\x01Ct"
        + b"R."
    ),
    "a buffer in no order": (
        b"cnumpy.core.numeric\n_frombuffer\n(C\x04abcd"
        + FLOAT32
        + LITTLE_ENDIAN
        + b"K\x01\x85U\x01AtR."
    ),
    **{
        f"a buffer whose axes are {axes!r}": (
            b"cnumpy.core.numeric\n_frombuffer\n(C\x04abcd"
            + FLOAT32
            + LITTLE_ENDIAN
            + b"K\x01K\x01\x86U\x01K"
            + axes
            + b"tR."
        )
        for axes in (b"N", b"K\x00\x85", b"K\x00K\x00\x86", b"K\x00K\x02\x86", b"K\x00\x88\x86")
    },
}


@pytest.mark.parametrize("misuse", MISUSES)
def test_known_names_only_work_as_numpy_uses_them(misuse: str) -> None:
    refused(MISUSES[misuse])
