"""What is not a pickle at all is refused by name, before it is read."""

import bz2
import gzip
import io
import lzma
import os
import re
import socket
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save as safetensors_bytes

from allcnn_zoo.errors import NeonError, UnsafePickleError
from allcnn_zoo.neon import inspect_pickle, read_file, read_model, read_pickle


def _written(write: Callable[[io.BytesIO], object]) -> bytes:
    file = io.BytesIO()
    write(file)
    return file.getvalue()


def _zip(file: io.BytesIO) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("model.p", b"\x80\x02N.")


def _tar(file: io.BytesIO, dialect: int = tarfile.GNU_FORMAT) -> None:
    with tarfile.open(fileobj=file, mode="w", format=dialect) as archive:
        archive.addfile(tarfile.TarInfo("model.p"))


def _torch(file: io.BytesIO, zipped: bool = False) -> None:
    torch.save({"w": torch.zeros(2)}, file, _use_new_zipfile_serialization=zipped)


OTHER_FORMATS = {
    "zip archive": _written(_zip),
    "empty zip": b"PK\x05\x06" + bytes(18),
    "zip archive .also PyTorch": _written(lambda file: _torch(file, zipped=True)),
    "a PyTorch file": _written(_torch),
    "tar": _written(lambda file: _tar(file, tarfile.USTAR_FORMAT)),
    "a tar archive": _written(_tar),
    "gzip": gzip.compress(b"x"),
    "bzip2": bz2.compress(b"x"),
    "xz": lzma.compress(b"x"),
    "zstd": b"\x28\xb5\x2f\xfd" + bytes(20),
    "7z": b"7z\xbc\xaf\x27\x1c" + bytes(20),
    "rar": b"Rar!\x1a\x07\x00" + bytes(20),
    "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(20),
    "npy": _written(lambda file: np.save(file, np.zeros(3))),
    "PNG": b"\x89PNG\r\n\x1a\n",
    "safetensors": safetensors_bytes({"w": np.zeros(3, np.float32)}),
    "web page": b"<!DOCTYPE html><html></html>",
    "server": b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>",
    "git lfs pull": b"version https://git-lfs.github.com/spec/v1\n",
    "is empty": b"",
}


@pytest.mark.parametrize("meaning", OTHER_FORMATS)
def test_other_formats_are_named(meaning: str, tmp_path: Path) -> None:
    path = tmp_path / "file.p"
    path.write_bytes(OTHER_FORMATS[meaning])
    for read in (read_pickle, inspect_pickle):
        with pytest.raises(UnsafePickleError, match=f"file.p: .*{meaning}"):
            read(path)
        with pytest.raises(UnsafePickleError, match=f"^(not a pickle but|the file) .*{meaning}"):
            read(OTHER_FORMATS[meaning])


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (Path.mkdir, "a directory, not a file"),
        (os.mkfifo, "a fifo, not a file"),
        (_socket, "a socket, not a file"),
        (lambda path: path.symlink_to("/dev/zero"), "a device, not a file"),
        (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
        (lambda _: None, "No such file or directory"),
    ],
)
def test_what_is_no_regular_file_is_refused_without_waiting(
    make: Callable[[Path], None], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    path = Path("thing.p")
    make(path)
    for read in (read_file, inspect_pickle, read_model):
        with pytest.raises(NeonError, match=f"^thing.p: {reason}"):
            read(path)


def test_a_path_that_becomes_a_fifo_after_the_look_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    regular, fifo = tmp_path / "file.p", tmp_path / "fifo.p"
    regular.write_bytes(b"N.")
    os.mkfifo(fifo)
    looked_at = regular.stat()
    monkeypatch.setattr(Path, "stat", lambda _: looked_at)
    with pytest.raises(NeonError, match="a fifo"):
        read_file(fifo)


def test_no_path_breaks_the_message_into_lines_or_leaves_the_family() -> None:
    with pytest.raises(NeonError) as caught:
        read_file("evil\n\x1b[2Jname.p")
    assert re.fullmatch(r"evil\\n\\x1b\[2Jname\.p: .*", str(caught.value))
    with pytest.raises(NeonError, match=r"file\\x00\.p: "):
        read_file("file\0.p")


def test_the_whole_file_is_read_from_a_path_of_either_kind(tmp_path: Path) -> None:
    path = tmp_path / "file.p"
    path.write_bytes(b"\x80\x02" + bytes(5000))
    assert read_file(path) == read_file(str(path)) == read_file(path.read_bytes())
    assert read_file(path) == path.read_bytes()


def test_a_path_may_begin_with_the_home_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model.p").write_bytes(b"N.")
    assert read_file("~/model.p") == b"N."
    with pytest.raises(NeonError, match=r"~nosuchuser/model\.p: No such file"):
        read_file("~nosuchuser/model.p")


def test_a_file_larger_than_any_neon_file_is_refused_unread(tmp_path) -> None:
    with (tmp_path / "huge.p").open("wb") as file:
        file.truncate((4 << 30) + 1)  # sparse: it takes no space
    with pytest.raises(UnsafePickleError, match=r"4294967297 bytes, more than the limit"):
        read_file(tmp_path / "huge.p")


@pytest.mark.parametrize("read", [read_pickle, read_model])
def test_an_error_names_the_file_and_the_byte_once(read, tmp_path: Path) -> None:
    path = tmp_path / "bad.p"
    path.write_bytes(b"\x80\x02cos\nsystem\n.")
    with pytest.raises(NeonError, match=rf"^{path}: byte 2: .*'os\.system'.*neither imported"):
        read(path)
    path.write_bytes(b"N.")
    with pytest.raises(NeonError, match=rf"^{path}: not a neon model: the pickle holds None"):
        read_model(path)
