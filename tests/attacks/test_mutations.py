"""Damaged files: whatever happens to the bytes, the outcome is a value or a one-line reason."""

import contextlib
import io
import pickle
import random
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allcnn_zoo.errors import NeonError
from allcnn_zoo.from_neon import candidates
from allcnn_zoo.neon import inspect_pickle, read_model, read_pickle, rescue
from tests.neon.trees import same, trees
from tests.neon.writer import early_neon_file, neon_file, python2_pickle, python3_pickle

OPCODES = (
    b"(.012FGIJKLMNPQRSTUVX]abcdeghijloprstqu})\x80\x81\x85\x86\x87\x88\x89\x8a\x8b\x8c\x93\x94"
)
EARLY = early_neon_file("batch_norm", widths=(1, 1), outputs=2)
FILES = [
    python2_pickle(EARLY),
    python3_pickle(EARLY),
    python3_pickle(EARLY, 0),
    python3_pickle(EARLY, 5),
    python2_pickle(neon_file("batch_norm", widths=(1, 1))),
]


@contextlib.contextmanager
def _refusals_are_short() -> Iterator[None]:
    message = ""
    try:
        yield
    except NeonError as error:
        message = str(error)
    assert message.isprintable()
    assert len(message) < 600


class _Python(pickle.Unpickler):
    """Python's own reader, for what ours has read."""

    def find_class(self, module: str, name: str) -> Any:
        assert module.partition(".")[0] in ("numpy", "_codecs", "collections", "builtins"), module
        return super().find_class(module, name)


def _plain(value: Any) -> Any:
    """A value of Python's as ours is meant to be."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.astype(value.dtype.newbyteorder("="))
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return type(value)(map(_plain, value)) if isinstance(value, list | tuple) else value


def _as_python_or_refused(data: bytes) -> None:
    """Refused in one line, or read as Python reads it."""
    with _refusals_are_short():
        found = _plain(read_pickle(data))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy's, about Python 2's flags
            expected = _Python(io.BytesIO(data), encoding="latin1").load()
        assert same(found, _plain(expected))


def _convert_or_refuse(data: bytes) -> None:
    _as_python_or_refused(data)
    with _refusals_are_short():
        candidates(data)
    with _refusals_are_short():
        assert inspect_pickle(data)["bytes"] == len(data)


def test_the_files_are_sound_before_they_are_changed() -> None:
    for data in FILES:
        assert candidates(data)


@given(st.sampled_from(FILES), st.integers(0), st.integers(0, 255))
def test_one_changed_byte(data: bytes, place: int, value: int) -> None:
    changed = bytearray(data)
    changed[place % len(data)] = value
    _convert_or_refuse(bytes(changed))


@settings(max_examples=200)
@given(st.sampled_from(FILES), st.randoms(use_true_random=False))
def test_many_changes(data: bytes, source: random.Random) -> None:
    changed = bytearray(data)
    for _ in range(source.randint(1, 20)):
        start, length = source.randrange(len(changed)), source.randint(1, 30)
        piece = changed[start : start + length]
        match source.randrange(4):
            case 0:
                del changed[start : start + length]
            case 1:
                changed[start] = source.choice(OPCODES)
            case 2:
                place = source.randrange(len(changed))
                changed[place:place] = piece
            case _:
                changed[start] = source.randrange(256)
        changed = changed or bytearray(b".")
    _convert_or_refuse(bytes(changed))


PIECES = [bytes([code]) for code in OPCODES] + [
    b"cnumpy.core.multiarray\n_reconstruct\n",
    b"cnumpy\nndarray\n",
    b"cnumpy\ndtype\n",
    b"c_codecs\nencode\n",
    b"cnumpy.core.multiarray\nscalar\n",
    b"cnumpy.core.numeric\n_frombuffer\n",
    b"U\x02f4",
    b"U\x01b",
    b"U\x01<",
    b"Vlatin1\n",
    b"K\x00",
    b"K\x01",
    b"K\x00K\x01\x87R",
    b"K\x00\x85",
    b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb",
    b"q\x00",
    b"h\x00",
    b"q\x01",
    b"h\x01",
    b"(K\x01K\x01\x85",
    b"\x89U\x04\0\0\0\0tb",
    b"I01\n",
    b"F1\n",
    b"S'a'\n",
]


@settings(max_examples=300)
@given(st.lists(st.sampled_from(PIECES), max_size=30))
def test_opcodes_in_any_order(pieces: list[bytes]) -> None:
    _convert_or_refuse(b"".join(pieces) + b".")


@settings(max_examples=300)
@given(st.sampled_from("ILFpg"), st.text("0123456789" * 3 + ".+-_eEnaifLx \t", max_size=6))
def test_numbers_as_text(opcode: str, digits: str) -> None:
    _as_python_or_refused(f"{opcode}{digits}\n.".encode())
    _as_python_or_refused(f"}}{opcode}{digits}\nNs.".encode())


@settings(max_examples=300)
@given(st.text("\\\\\\'\"nrtabx019d", max_size=8))
def test_strings_with_escapes(inside: str) -> None:
    _as_python_or_refused(f"S'{inside}'\n.".encode())


@given(st.binary(max_size=500))
def test_any_bytes(data: bytes) -> None:
    _convert_or_refuse(data)


@settings(max_examples=50)
@given(trees)
def test_any_tree_is_a_model_or_refused(tree: object) -> None:
    for value in (tree, {"model": tree}, {"layer_params_states": tree}):
        with pytest.raises(NeonError):
            candidates(python3_pickle(value))


PARTS = ["type", "config", "params", "states"]
SETTINGS = ["keep", "fshape", "strides", "padding", "dilation", "op", "transform", "x"]


@given(st.integers(0, 22), st.sampled_from(PARTS + SETTINGS), trees)
def test_any_part_or_setting_of_a_layer_replaced_by_any_tree(
    index: int, name: str, tree: object
) -> None:
    whole = neon_file(widths=(1, 1), outputs=2)
    layer = whole["model"]["config"]["layers"][index]
    (layer if name in PARTS else layer["config"])[name] = tree
    with _refusals_are_short():
        candidates(python3_pickle(whole))


def test_what_fuzzing_found_is_understood_or_refused() -> None:
    corpus = sorted((Path(__file__).parents[1] / "fuzz" / "corpus").iterdir())
    understood = 0
    for path in corpus:
        data = path.read_bytes()
        with contextlib.suppress(NeonError):
            understood += inspect_pickle(data)["refusal"] is None
            rescue(read_model(data), states=True)
    assert 0 < understood < len(corpus)
