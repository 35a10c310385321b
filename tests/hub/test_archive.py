"""Archives that want out, want more than their share, or are broken."""

import gzip
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from allcnn_zoo.errors import CacheError, IntegrityError
from allcnn_zoo.hub import extract_tar

from .conftest import left_over

MEMBERS = {"batches/data_1": b"one" * 1000, "batches/data_2": b"two" * 1000, "readme": b"hello"}


def archive(folder: Path, *members: tarfile.TarInfo, mode: str = "w:gz") -> Path:
    """An archive of `MEMBERS` and then the given ones."""
    path = folder / "archive.tar"
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, content in MEMBERS.items():
            tar.addfile(member(name, size=len(content)), io.BytesIO(content))
        for extra in members:
            tar.addfile(extra, io.BytesIO(b"x" * extra.size))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, **facts: object) -> tarfile.TarInfo:
    """One entry of an archive."""
    info = tarfile.TarInfo(name)
    info.type = kind
    for fact, value in facts.items():
        setattr(info, fact, value)
    return info


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_unpacks(mode: str, tmp_path: Path) -> None:
    target = tmp_path / "new" / "folder"
    path = archive(tmp_path, member("./batches/empty", tarfile.DIRTYPE), mode=mode)
    entries = extract_tar(path, target, max_size=100_000)
    assert contents(target) == MEMBERS
    assert (target / "batches" / "empty").is_dir()
    assert entries == [target / "batches", target / "readme"]
    assert left_over(tmp_path) == []


HOSTILE: dict[str, tarfile.TarInfo] = {
    "parent folder": member("../evil"),
    "parent folder inside": member("batches/../../evil"),
    "absolute path": member("/evil"),
    "symbolic link": member("batches/link", tarfile.SYMTYPE, linkname="/etc"),
    "hard link": member("batches/link", tarfile.LNKTYPE, linkname="/etc/passwd"),
    "character device": member("null", tarfile.CHRTYPE, devmajor=1, devminor=3),
    "block device": member("disk", tarfile.BLKTYPE),
    "pipe": member("pipe", tarfile.FIFOTYPE),
    "the same file twice": member("batches/data_1", size=1),
    "a file that is a folder": member("batches/data_1/below", size=1),
    "a folder that is a file": member("batches/data_1", tarfile.DIRTYPE),
    "drive letter": member("C:/evil"),
    "backslash": member("..\\evil"),
    "control character": member("evil\x1b[2J"),
    "no name": member("."),
}


LONG = {"name": "x" * 300, "path": "/".join(["long"] * 2_000)}


@pytest.mark.parametrize("name", LONG.values(), ids=LONG)
def test_a_name_that_no_disk_takes_is_the_fault_of_the_archive(name: str, tmp_path: Path) -> None:
    path = archive(tmp_path, member(name, size=1))
    with pytest.raises(IntegrityError, match=r"unpacked: '[x/long]* is too long a name"):
        extract_tar(path, tmp_path / "target", max_size=100_000)


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_refuses_headers_that_announce_headers_without_end(kind: bytes, tmp_path: Path) -> None:
    path = tmp_path / "archive.tar"
    path.write_bytes(member("header", kind).tobuf() * 2_000)
    with pytest.raises(IntegrityError, match="cannot be unpacked"):
        extract_tar(path, tmp_path / "target", max_size=2_000_000)


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE)
def test_refuses_what_could_reach_outside(hostile: tarfile.TarInfo, tmp_path: Path) -> None:
    target = tmp_path / "target"
    path = archive(tmp_path, hostile)
    with pytest.raises(IntegrityError, match="cannot be unpacked") as caught:
        extract_tar(path, target, max_size=100_000)
    assert "\x1b" not in str(caught.value)
    assert list(target.iterdir()) == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["archive.tar", "target"]


def test_refuses_a_bomb_before_it_fills_the_disk(tmp_path: Path) -> None:
    path = archive(tmp_path, member("bomb", size=2_000_000))
    with pytest.raises(IntegrityError, match="larger than expected"):
        extract_tar(path, tmp_path / "target", max_size=1_000_000)


def test_refuses_a_bomb_in_the_headers(tmp_path: Path) -> None:
    path = tmp_path / "archive.tar"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(member("header", tarfile.XHDTYPE, size=8 * 10**9).tobuf())
        for _ in range(3):
            file.write(bytes(1 << 20))
    with pytest.raises(IntegrityError, match="larger than expected"):
        extract_tar(path, tmp_path / "target", max_size=1_000_000)


def test_refuses_too_many_members(tmp_path: Path) -> None:
    path = archive(tmp_path, *(member(f"f{number}") for number in range(20)))
    with pytest.raises(IntegrityError, match="more than 10 members"):
        extract_tar(path, tmp_path / "target", max_size=100_000, max_members=10)


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda data: data[: len(data) // 2],
    "without its checksum": lambda data: data[:-8],
    "with a wrong checksum": lambda data: data[:-8] + bytes(8),
    "a flipped bit": lambda data: data[:60] + bytes([data[60] ^ 1]) + data[61:],
    "not an archive": lambda _: b"<html>no</html>" * 100,
    "not gzip after all": lambda _: b"\x1f\x8b" + b"junk" * 100,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_refuses_damaged_archives(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = archive(tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(IntegrityError, match="cannot be unpacked"):
        extract_tar(path, tmp_path / "target", max_size=100_000)
    assert list((tmp_path / "target").iterdir()) == []


def test_keeps_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "readme").write_text("mine")
    extract_tar(archive(tmp_path), tmp_path / "target", max_size=100_000)
    assert (tmp_path / "target" / "readme").read_text() == "mine"
    assert (tmp_path / "target" / "batches" / "data_1").read_bytes() == MEMBERS["batches/data_1"]


def test_says_what_is_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "target").touch()
    with pytest.raises(CacheError, match="A file is in the way"):
        extract_tar(archive(tmp_path), tmp_path / "target", max_size=100_000)


def test_a_missing_archive_is_named(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match=r"Cannot read .*nowhere\.tar"):
        extract_tar(tmp_path / "nowhere.tar", tmp_path / "target", max_size=1)


def test_unpacked_files_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        path = archive(tmp_path, member("setuid", size=3, mode=0o4777))
        extract_tar(path, tmp_path / "target", max_size=100_000)
    finally:
        os.umask(before)
    assert (tmp_path / "target" / "setuid").stat().st_mode & 0o7777 == 0o640
