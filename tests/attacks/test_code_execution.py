"""Every opcode that can name, call or build something, used to run code."""

import os
import pickle
import subprocess
from typing import Any

import numpy as np
import pytest

from .assemble import (
    DTYPE,
    EMPTY_ARRAY,
    ENCODE,
    FLOAT32,
    LITTLE_ENDIAN,
    NDARRAY,
    RECONSTRUCT,
    array,
    integer,
    refused,
    text,
)

SYSTEM = b"cos\nsystem\n"
COMMAND = b"U\x04true"

BY_OPCODE = {
    "GLOBAL": SYSTEM,
    "GLOBAL and REDUCE": SYSTEM + COMMAND + b"\x85R",
    "STACK_GLOBAL": b"\x8c\x02os\x8c\x06system\x93" + COMMAND + b"\x85R",
    "STACK_GLOBAL from the memo": b"\x8c\x06system\x94\x8c\x02os\x94h\x00\x93",
    "STACK_GLOBAL from escaped text": b"Vo\\u0073\nVsystem\n\x93",
    "STACK_GLOBAL of bytes": b"C\x02osC\x06system\x93",
    "STACK_GLOBAL of numbers": b"K\x01K\x02\x93",
    "INST": b"(" + COMMAND + b"ios\nsystem\n",
    "INST of a known name": b"(inumpy\nndarray\n",
    "OBJ": b"(" + SYSTEM + COMMAND + b"o",
    "OBJ of a known name": b"(" + NDARRAY + b"o",
    "NEWOBJ": NDARRAY + b")\x81",
    "NEWOBJ_EX": NDARRAY + b")}\x92",
    "EXT1": b"\x82\x01)R",
    "EXT2": b"\x83\x01\x00)R",
    "EXT4": b"\x84\x01\x00\x00\x00)R",
    "PERSID": b"Pos.system\n",
    "BINPERSID": COMMAND + b"Q",
    "BUILD of a dict": b"}}b",
    "BUILD with slots": NDARRAY + b"(N}U\x0c__setstate__" + b"K\x01stb",
    "BUILD of __setstate__": RECONSTRUCT + b"}U\x0c__setstate__K\x01sb",
    "REDUCE of text": COMMAND + b")R",
    "REDUCE without arguments": NDARRAY + b"NR",
    "REDUCE with a list": DTYPE + b"]R",
    "NEXT_BUFFER": b"\x97",
    "READONLY_BUFFER": b"\x98",
}


@pytest.mark.parametrize("attack", BY_OPCODE.values(), ids=BY_OPCODE)
def test_no_opcode_runs_code(attack: bytes) -> None:
    refused(b"\x80\x04" + attack + b".")
    refused(attack + b".")


NAMES = [
    *("os.system", "posix.system", "subprocess.Popen", "builtins.eval", "__builtin__.eval"),
    *("builtins.getattr", "copyreg._reconstructor", "copy_reg._reconstructor", "pickle.loads"),
    *("numpy.load", "numpy.matrix", "numpy.memmap", "numpy.lib.format.open_memmap"),
    *("numpy.core.multiarray.fromstring", "numpy.testing._private.utils.runstring"),
    *("numpy.f2py.crackfortran.param_eval", "numpy.core.multiarray._reconstruct.__globals__"),
    *("numpy.ndarray.__reduce__", "numpy.ndarray\r", "numpy.ndarray\x00", "nump\u0443.ndarray"),
    *("_codecs.decode", "codecs.encode", "_codecs.encode ", " _codecs.encode"),
    *("torch._utils._rebuild_tensor_v2", "torch.load", "marshal.loads", "types.FunctionType"),
    *("allcnn_zoo.neon.unpickle.read_pickle", "collections.deque", "builtins.bytes"),
    *("neon.layers", "neonate.layers.layer.Linear", "neon.layers.recurrent.GRU "),
    *("neon.layers.recurrent.GRU" + "U" * 200, "neon.\u03b1.layer.Linear"),
]


@pytest.mark.parametrize("name", NAMES)
def test_only_numpys_own_names_are_known(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    refused(f"c{module}\n{attribute}\n.".encode(), "the file names")
    refused(text(module) + text(attribute) + b"\x93.", "the file names")


@pytest.mark.parametrize(
    "name", ["numpy\nndarray.__init__", "numpy\ncore.multiarray._reconstruct", "numpy.core\nx.y"]
)
def test_dotted_names_do_not_reach_inside_known_modules(name: str) -> None:
    refused(f"c{name}\n.".encode(), "the file names 'numpy")


class _Runs:
    def __init__(self, *reduced: Any) -> None:
        self.reduced = reduced

    def __reduce__(self) -> tuple[Any, ...]:
        return self.reduced


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_objects_that_run_code_when_loaded_or_are_no_plain_values(protocol: int) -> None:
    calls = [
        (os.system, ("true",)),
        (subprocess.Popen, (["true"],)),
        (eval, ("1",)),
        (getattr, ("x", "upper")),
        (np.dtype, ("O",)),
        (np.frombuffer, (b"1234",)),
        (bytes.fromhex, ("00",)),
    ]
    values = [object(), {1}, frozenset({1}), 1j, print, int, range(3), ...]
    for strange in [*(_Runs(*call) for call in calls), *values]:
        refused(pickle.dumps({"key": strange}, protocol))


# Known names called in other ways than numpy calls them.

GRU = b"cneon.layers.recurrent\nGRU\n"
ORDERED = b"ccollections\nOrderedDict\n"
SCALAR = b"cnumpy.core.multiarray\nscalar\n"
BUFFER = b"cnumpy.core.numeric\n_frombuffer\n"
FOUR_BYTES = BUFFER + b"(C\x04abcd" + FLOAT32 + LITTLE_ENDIAN
MISUSES = {
    "a call of a class of neon": GRU + b")R",
    "an object of a class of neon": GRU + b")\x81",
    "an instance of a class of neon": b"(" + GRU + b"o",
    "a state on a class of neon": GRU + b"}b",
    "a dict from a list of numbers": ORDERED + b"](K\x01K\x02e\x85R",
    "a dict from triples": ORDERED + b"]](K\x01K\x02K\x03ea\x85R",
    "a dict from a dict": ORDERED + b"}\x85R",
    "a dict with a state": ORDERED + b")R}b",
    "bytes of a number": b"c__builtin__\nbytes\nK\x09\x85R",
    "an array with two states": array() + b"(K\x01K\x02\x85tb",
    "an array with two states, by the memo": EMPTY_ARRAY + b"q\x00" + array()[len(EMPTY_ARRAY) :]
    + b"h\x00" + array()[len(EMPTY_ARRAY) :],
    "an array with another version of state": array().replace(b"K\x01K\x02\x85", b"K\x02K\x02\x85"),
    "an array in an order of 2^64-1": array(order=integer(2**64 - 1)),
    "an array in an order of 2": array(order=b"K\x02"),
    "a subclass of ndarray": RECONSTRUCT + DTYPE + b"K\x00\x85U\x01b\x87R",
    "an array of another initial shape": RECONSTRUCT + NDARRAY + b"K\x05\x85U\x01b\x87R",
    "an array of another initial type": RECONSTRUCT + NDARRAY + b"K\x00\x85U\x01O\x87R",
    "an array without arguments": RECONSTRUCT + b")R",
    "an array with an array as shape": RECONSTRUCT + NDARRAY + array() + b"\x85U\x01b\x87R",
    "an array with an array for its class": RECONSTRUCT + array() + b"K\x00\x85U\x01b\x87R",
    "the type ndarray itself": NDARRAY + b"K\x05\x85R",
    "another codec": ENCODE + text("a") + text("rot13") + b"\x86R",
    "a codec that decompresses": ENCODE + b"C\x01a" + text("zlib") + b"\x86R",
    "encoding a number": ENCODE + b"K\x01" + text("latin1") + b"\x86R",
    "encoding what Latin-1 lacks": ENCODE + text("\u20ac") + text("latin1") + b"\x86R",
    "three arguments to encode": ENCODE + b"VV\nVlatin1\nVignore\n\x87R",
    "a state on a dtype that has one": FLOAT32 + LITTLE_ENDIAN + LITTLE_ENDIAN,
    "a state on a name": RECONSTRUCT + LITTLE_ENDIAN,
    "a name as a value": b"]" + NDARRAY + b"a",
    "a dtype as a value": b"]" + FLOAT32 + LITTLE_ENDIAN + b"a",
    "an unfinished dtype as a value": b"]" + FLOAT32 + b"a",
    "a name as the whole": NDARRAY,
    "a name inside a tuple": b"]" + NDARRAY + b"\x85\x85a",
    "an unfinished array as a value": b"]" + EMPTY_ARRAY + b"a",
    "a state on an array with no state": EMPTY_ARRAY + b")b",
    "a list for the state of an array": EMPTY_ARRAY + b"]b",
    "a scalar without arguments": SCALAR + b")R",
    "a scalar of an unfinished dtype": SCALAR + FLOAT32 + b"U\x04abcd\x86R",
    "a scalar of other length": SCALAR + FLOAT32 + LITTLE_ENDIAN + b"U\x03abc\x86R",
    "a buffer without arguments": BUFFER + b")R",
    "a buffer of other length": FOUR_BYTES + b"K\x02\x85U\x01CtR",
    "a buffer in no order": FOUR_BYTES + b"K\x01\x85U\x01AtR",
    "a buffer with an axis twice": FOUR_BYTES + b"K\x01\x85U\x01KK\x00K\x00\x86tR",
    **{
        f"a buffer whose axes are {axes!r}": FOUR_BYTES + b"K\x01K\x01\x86U\x01K" + axes + b"tR"
        for axes in (b"N", b"K\x00\x85", b"K\x00K\x00\x86", b"K\x00K\x02\x86", b"K\x00\x88\x86")
    },
}  # fmt: skip


@pytest.mark.parametrize("misuse", MISUSES.values(), ids=MISUSES)
def test_known_names_only_work_as_numpy_uses_them(misuse: bytes) -> None:
    refused(misuse + b".")
