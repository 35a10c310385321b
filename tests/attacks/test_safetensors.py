"""Hostile weights files: headers that lie, offsets that stray, files that are no files."""

import contextlib
import json
import os
import struct
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from allcnn_zoo import AllCNN, Architecture, Metadata, Preprocessor, load
from allcnn_zoo.checkpoint import read_metadata, save
from allcnn_zoo.cli.files import _inspection_lines, facts_of
from allcnn_zoo.errors import CheckpointError

SMALL = Architecture(widths=(4, 6), num_classes=3)
Header = dict[str, Any]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "weights.safetensors"
    save(path, AllCNN(SMALL).state_dict(), Metadata("mine", SMALL, ("a", "b", "c")))
    return path


def rewrite(path: Path, change: Callable[[Header], Any]) -> None:
    """Change the header that safetensors itself reads."""
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header: Header = json.loads(raw[8 : 8 + length])
    text = json.dumps(change(header) or header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])


def tensor(header: Header, name: str = "classifier.bias") -> Header:
    entry: Header = header[name]
    return entry


def many(header: Header) -> None:
    header.update(
        {f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(10_000)}
    )


LIES: dict[str, Callable[[Header], Any]] = {
    "offsets that overlap": lambda h: tensor(h).update(data_offsets=[4, 16]),
    "offsets beyond the file": lambda h: tensor(h).update(data_offsets=[10**9, 10**9 + 12]),
    "offsets that go backwards": lambda h: tensor(h).update(data_offsets=[12, 0]),
    "negative offsets": lambda h: tensor(h).update(data_offsets=[-12, 0]),
    "offsets of 64 bits": lambda h: tensor(h).update(data_offsets=[2**64 - 12, 2**64]),
    "offsets of many digits": lambda h: tensor(h).update(data_offsets=[-(10**4299), 10**4299]),
    "a shape of many digits": lambda h: tensor(h).update(shape=[10**4299]),
    "a shape too large": lambda h: tensor(h).update(shape=[2**62]),
    "a shape that overflows": lambda h: tensor(h).update(shape=[2**32, 2**32, 2**32]),
    "a negative shape": lambda h: tensor(h).update(shape=[-3]),
    "a fractional shape": lambda h: tensor(h).update(shape=[3.0]),
    "an unknown dtype": lambda h: tensor(h).update(dtype="OBJECT"),
    "a dtype of another size": lambda h: tensor(h).update(dtype="F64"),
    "a dtype of the same size": lambda h: tensor(h).update(dtype="I32"),
    "no dtype": lambda h: tensor(h).pop("dtype"),
    "no tensors": lambda h: {"__metadata__": h["__metadata__"]},
    "metadata that is no text": lambda h: h["__metadata__"].update(allcnn_zoo=7),
    "metadata that is a list": lambda h: h.update(__metadata__=[]),
    "a list for a header": lambda h: [h],
    "ten thousand empty tensors": many,
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_a_header_that_lies_is_refused(path: Path, lie: Callable[[Header], Any]) -> None:
    rewrite(path, lie)
    with pytest.raises(CheckpointError, match=r"weights\.safetensors"):
        load(path)
    with contextlib.suppress(CheckpointError):
        for _ in _inspection_lines(facts_of(path)):
            pass


HEADERS = {
    "longer than the file": struct.pack("<Q", 10**6) + b"{}",
    "of 2^64 bytes": b"\xff" * 8 + b"{}",
    "empty": struct.pack("<Q", 0),
    "not UTF-8": struct.pack("<Q", 4) + b"\xff\xfe{}",
    "not JSON": struct.pack("<Q", 4) + b"{,,}",
    "nested without end": struct.pack("<Q", 10**6) + b"[" * 10**6,
    "cut off": struct.pack("<Q", 100)[:5],
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_a_header_that_is_none_is_refused(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(header)
    for read in (load, read_metadata, Preprocessor.load):
        with pytest.raises(CheckpointError, match=r"weights\.safetensors"):
            read(path)


def test_files_that_are_cut_off_or_go_on_are_refused(path: Path) -> None:
    whole = path.read_bytes()
    places = {*range(64), *range(64, len(whole), 97), len(whole) - 1}
    for content in (*(whole[:place] for place in places), whole + b"more"):
        path.write_bytes(content)
        with pytest.raises(CheckpointError):
            load(path)


def test_no_memory_is_taken_for_a_promise(path: Path) -> None:
    rewrite(path, lambda h: tensor(h).update(shape=[2**40], data_offsets=[0, 2**42]))
    tracemalloc.start()
    with pytest.raises(CheckpointError):
        load(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 << 20


def test_the_message_is_one_short_line(path: Path) -> None:
    rewrite(path, lambda h: tensor(h).update(dtype="\x1b[2J\u202e" * 5000))
    with pytest.raises(CheckpointError, match="is damaged") as caught:
        load(path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1500


@pytest.mark.parametrize("read", [load, read_metadata, Preprocessor.load])
def test_a_file_of_any_size_takes_no_memory(path: Path, read: Any) -> None:
    with path.open("r+b") as file:
        file.write((1 << 39).to_bytes(8, "little"))  # the length of a header
        file.truncate(1 << 40)  # a sparse file
    with pytest.raises(CheckpointError, match="more than 4,294,967,296 bytes"):
        read(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no fifos here")
@pytest.mark.parametrize("read", [load, read_metadata, Preprocessor.load])
def test_a_fifo_does_not_make_anybody_wait(tmp_path: Path, read: Any) -> None:
    path = tmp_path / "weights.safetensors"
    os.mkfifo(path)
    done = threading.Event()

    def attempt() -> None:
        with pytest.raises(CheckpointError):
            read(path)
        done.set()

    threading.Thread(target=attempt, daemon=True).start()
    assert done.wait(20)


def test_a_link_that_goes_in_circles_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.symlink_to(path)
    with pytest.raises(CheckpointError, match=r"weights\.safetensors"):
        load(path)
