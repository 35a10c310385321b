"""`survey` tells what is in any pickle, also in those that are refused."""

import collections
import io
import os
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allcnn_zoo.errors import NeonError
from allcnn_zoo.neon import survey, survey_bytes

from .writer import neon_file, python2_pickle


def test_a_neon_file_is_safe_and_names_only_numpy(tmp_path: Path) -> None:
    path = tmp_path / "model.p"
    path.write_bytes(python2_pickle(neon_file()))
    found = survey(path)
    assert found.is_safe
    assert found.complete
    assert found.size == path.stat().st_size
    assert found.protocol == 2
    assert found.globals == ("numpy.core.multiarray._reconstruct", "numpy.ndarray", "numpy.dtype")
    assert found.opcodes["STOP"] == found.opcodes["PROTO"] == 1
    assert list(found.opcodes.values()) == sorted(found.opcodes.values(), reverse=True)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_names_are_told_in_every_protocol(protocol: int) -> None:
    found = survey_bytes(pickle.dumps([os.path.join, collections.OrderedDict()], protocol))
    assert not found.is_safe
    assert "posixpath.join" in found.globals
    assert "collections.OrderedDict" in found.globals
    assert found.protocol == (protocol if protocol >= 2 else None)
    assert found.complete


def test_names_fetched_from_the_memo_are_told() -> None:
    stream = b"\x80\x04\x8c\x06system\x94\x8c\x02os\x94h\x01h\x00\x93."
    assert survey_bytes(stream).globals == ("os.system",)
    in_text = b"Vsystem\np5\n0Vos\ng5\n\x93."
    assert survey_bytes(in_text).globals == ("os.system",)


@pytest.mark.parametrize(
    ("stream", "name"),
    [
        (b"Vos\nVsystem\n\x86\x94\x93.", "system.?"),
        (b"Vsystem\np0\nVpath\np+0\n0Vos\ng0\n\x93.", "os.system"),  # put again, or not
        (b"Vsystem\np9999999\n0Vos\ng9999999\n\x93.", "os.?"),
        (b"Vpath\nVos\n0Vsystem\n\x93.", "?.system"),
        (b"S'\\157s'\nVsystem\n\x93.", "?.system"),  # an escape that Python 2 does not write
        (b"Vos\nNVsystem\n\x93.", "?.system"),
    ],
)
def test_a_name_that_is_computed_is_told_as_unknown(stream: bytes, name: str) -> None:
    found = survey_bytes(stream)
    assert found.globals == (name,)
    assert not found.complete


SHIFTED = b"Vx\n\x94Vsystem\n\x94Vos\n"


@pytest.mark.parametrize(
    "stream",
    [
        SHIFTED + b"g1\n\x93.",
        # Python gives MEMOIZE the number of entries, which does not grow when one is put again.
        b"Vx\nq\x00q\x00q\x00Vsystem\n\x94Vjoin\n\x94Vos\nh\x01\x93.",
        b"Vx\nq\x05Vsystem\n\x94Vjoin\n\x94Vos\nh\x01\x93.",
        b"V\\u006f\\u0073\nS'system'\n\x93.",
        b"\x8c\x02os\x95\x00\x00\x00\x00\x00\x00\x00\x00\x8c\x06system\x93.",
        b"T\x02\x00\x00\x00osX\x06\x00\x00\x00system\x93.",
    ],
)
def test_what_python_would_import_is_told(stream: bytes) -> None:
    found = survey_bytes(stream)
    imported = []

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> object:
            imported.append(f"{module}.{name}")
            return None

    Unpickler(io.BytesIO(stream)).load()
    assert found.globals == tuple(imported) == ("os.system",)
    assert found.complete


def test_instances_and_extensions_count_as_names() -> None:
    assert survey_bytes(b"(ios\nsystem\n\x82\x07.").globals == (
        "os.system",
        "extension registry.7",
    )


def test_a_broken_pickle_is_reported_up_to_the_break() -> None:
    found = survey_bytes(pickle.dumps([os.system], 2)[:-1])
    assert found.globals == ("posix.system",)
    assert not found.complete
    assert found.refusal is not None


def test_names_are_shown_as_one_short_line_of_ascii() -> None:
    (name,) = survey_bytes(b"cevil\x1b[2J" + b"m" * 5000 + b"\n\xff\xfe\n.").globals
    assert name.isascii()
    assert name.isprintable()
    assert len(name) < 500


def test_a_flood_of_names_is_cut_short() -> None:
    flood = b"".join(b"cm%d\nn\n" % index for index in range(5000))
    found = survey_bytes(flood + b".")
    assert len(found.globals) == 100
    assert not found.complete


@given(st.binary(max_size=300))
def test_any_bytes_can_be_surveyed(data: bytes) -> None:
    assert survey_bytes(b"(" + data).size == len(data) + 1


def test_what_cannot_be_opened_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NeonError, match="a directory"):
        survey(tmp_path)
