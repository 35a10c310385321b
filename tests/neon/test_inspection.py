"""`inspect_pickle` tells what is in any pickle, also in those that are refused."""

import collections
import io
import os
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allcnn_zoo.neon import inspect_pickle

from .writer import neon_file, python2_pickle


def test_a_neon_file_is_safe_and_names_only_numpy(tmp_path: Path) -> None:
    path = tmp_path / "model.p"
    path.write_bytes(python2_pickle(neon_file()))
    found = inspect_pickle(path)
    assert (found["kind"], found["refusal"], found["complete"]) == ("neon model", None, True)
    assert (found["bytes"], found["protocol"]) == (path.stat().st_size, 2)
    names = ("numpy.core.multiarray._reconstruct", "numpy.ndarray", "numpy.dtype")
    assert found["globals"] == names
    counts = found["opcode_counts"]
    assert counts["STOP"] == counts["PROTO"] == 1
    assert list(counts.values()) == sorted(counts.values(), reverse=True)
    assert found["opcodes"] == sum(counts.values())


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_names_are_told_in_every_protocol(protocol: int) -> None:
    found = inspect_pickle(pickle.dumps([os.path.join, collections.OrderedDict()], protocol))
    assert found["verdict"] == "refused"
    assert set(found["globals"]) >= {"posixpath.join", "collections.OrderedDict"}
    assert found["protocol"] == (protocol if protocol >= 2 else None)
    assert found["complete"]


@pytest.mark.parametrize(
    "stream",
    [
        b"\x80\x04\x8c\x06system\x94\x8c\x02os\x94h\x01h\x00\x93.",
        b"Vsystem\np5\n0Vos\ng5\n\x93.",
        b"Vx\n\x94Vsystem\n\x94Vos\ng1\n\x93.",
        # Python gives MEMOIZE the number of entries, which does not grow when one is put again.
        b"Vx\nq\x00q\x00q\x00Vsystem\n\x94Vjoin\n\x94Vos\nh\x01\x93.",
        b"Vx\nq\x05Vsystem\n\x94Vjoin\n\x94Vos\nh\x01\x93.",
        b"V\\u006f\\u0073\nS'system'\n\x93.",
        b"\x8c\x02os\x95\x00\x00\x00\x00\x00\x00\x00\x00\x8c\x06system\x93.",
        b"T\x02\x00\x00\x00osX\x06\x00\x00\x00system\x93.",
    ],
)
def test_what_python_would_import_is_told(stream: bytes) -> None:
    imported = []

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> object:
            imported.append(f"{module}.{name}")
            return None

    Unpickler(io.BytesIO(stream)).load()
    found = inspect_pickle(stream)
    assert found["globals"] == tuple(imported) == ("os.system",)
    assert found["complete"]


@pytest.mark.parametrize(
    ("stream", "names"),
    [
        (b"Vos\nVsystem\n\x86\x94\x93.", "system.?"),
        (b"Vsystem\np0\nVpath\np+0\n0Vos\ng0\n\x93.", "os.system"),  # put again, or not
        (b"Vpath\nVos\n0Vsystem\n\x93.", "?.system"),
        # Indexes of any size could be chosen to collide in Python's dict.
        (b"Vos\nr\xff\xff\xff\x7fVsystem\n\x93.", "os.system"),
        (b"Vos\np9223372036854775807\n0Nq\x00g9223372036854775807\nVsystem\n\x93.", "?.system"),
        (b"S'\\157s'\nVsystem\n\x93.", "?.system"),  # an escape that Python 2 does not write
        (b"Vos\nNVsystem\n\x93.", "?.system"),
        (b"(ios\nsystem\n\x82\x07.", "os.system extension registry.7"),
        (pickle.dumps([os.system], 2)[:-1], "posix.system"),  # cut off
        (b"".join(b"cm%d\nn\n" % index for index in range(5000)) + b".", None),
    ],
)
def test_what_is_not_sure_to_be_all_is_told_as_such(stream: bytes, names: str | None) -> None:
    found = inspect_pickle(stream)
    assert found["complete"] is ("extension" in str(names))
    assert found["refusal"]
    assert " ".join(found["globals"]) == names or len(found["globals"]) == 100


def test_names_are_shown_as_one_short_line_of_ascii() -> None:
    (name,) = inspect_pickle(b"cevil\x1b[2J" + b"m" * 5000 + b"\n\xff\xfe\n.")["globals"]
    assert name.isascii()
    assert name.isprintable()
    assert len(name) < 500


@given(st.binary(max_size=300))
def test_any_bytes_can_be_inspected(data: bytes) -> None:
    assert inspect_pickle(b"(" + data)["bytes"] == len(data) + 1
