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
from allcnn_zoo.neon import read_file, read_pickle, survey


def _zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("model.p", b"\x80\x02N.")
    return file.getvalue()


def _tar(dialect: int) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=dialect) as archive:
        archive.addfile(tarfile.TarInfo("model.p"))
    return file.getvalue()


def _torch(zipped: bool) -> bytes:
    file = io.BytesIO()
    torch.save({"w": torch.zeros(2)}, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def _npy() -> bytes:
    file = io.BytesIO()
    np.save(file, np.zeros(3))
    return file.getvalue()


OTHER_FORMATS = {
    "zip archive": _zip(),
    "empty zip": b"PK\x05\x06" + bytes(18),
    "zip archive .also PyTorch": _torch(zipped=True),
    "a PyTorch file": _torch(zipped=False),
    "tar": _tar(tarfile.USTAR_FORMAT),
    "a tar archive": _tar(tarfile.GNU_FORMAT),
    "gzip": gzip.compress(b"x"),
    "bzip2": bz2.compress(b"x"),
    "xz": lzma.compress(b"x"),
    "zstd": b"\x28\xb5\x2f\xfd" + bytes(20),
    "7z": b"7z\xbc\xaf\x27\x1c" + bytes(20),
    "rar": b"Rar!\x1a\x07\x00" + bytes(20),
    "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(20),
    "npy": _npy(),
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
    for read in (read_pickle, survey):
        with pytest.raises(UnsafePickleError, match=f"file.p: .*{meaning}"):
            read(path)


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


def _loop(path: Path) -> None:
    path.symlink_to(path)


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _unreadable(path: Path) -> None:
    path.write_bytes(b"N.")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")


def _missing(path: Path) -> None:
    pass


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (Path.mkdir, "a directory, not a file"),
        (_fifo, "a fifo, not a file"),
        (_socket, "a socket, not a file"),
        (_device, "a device, not a file"),
        (_loop, "Too many levels of symbolic links"),
        (_missing, "No such file or directory"),
        (_unreadable, "Permission denied"),
    ],
)
@pytest.mark.skipif(os.name == "nt", reason="POSIX files")
def test_what_is_no_regular_file_is_refused_without_waiting(
    make: Callable[[Path], None], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    path = Path("thing.p")
    make(path)
    with pytest.raises(NeonError, match=f"^thing.p: {reason}"):
        read_file(path)


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


def test_a_path_cannot_break_the_message_into_lines() -> None:
    with pytest.raises(NeonError) as caught:
        read_file("evil\n\x1b[2Jname.p")
    assert re.fullmatch(r"evil\\n\\x1b\[2Jname\.p: .*", str(caught.value))


def test_a_path_with_a_nul_is_an_error_like_any_other() -> None:
    with pytest.raises(NeonError):
        read_file("file\0.p")


def test_the_whole_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "file.p"
    path.write_bytes(b"\x80\x02" + bytes(5000))
    assert read_file(path) == path.read_bytes()


def test_a_file_larger_than_any_neon_file_is_refused_unread(tmp_path) -> None:
    with (tmp_path / "huge.p").open("wb") as file:
        file.truncate((4 << 30) + 1)  # sparse: it takes no space
    with pytest.raises(UnsafePickleError, match=r"4294967297 bytes, more than the limit"):
        read_file(tmp_path / "huge.p")
