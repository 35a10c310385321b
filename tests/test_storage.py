"""Files are there whole or not at all, whatever the disk, the process or the file system does."""

import errno
import os
from pathlib import Path

import pytest

from allcnn_zoo import storage
from allcnn_zoo.storage import temporary, write_atomically


def test_a_file_appears_whole_in_place_of_the_old_one(tmp_path) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    with path.open("rb") as reader:
        write_atomically(path, b"new and longer")
        assert reader.read() == b"old", "it was written over, not replaced"
    assert path.read_bytes() == b"new and longer"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("step", ["fsync", "replace", "write_bytes"])
def test_a_failure_at_any_step_leaves_the_old_file_and_nothing_else(
    step, tmp_path, monkeypatch
) -> None:
    path = tmp_path / "file.bin"
    write_atomically(path, b"old")

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os if step == "fsync" else Path, step, fail)
    with pytest.raises(OSError, match=r"No space left on device: '.*file\.bin'$") as caught:
        write_atomically(path, b"new")
    monkeypatch.undo()
    assert ".partial" not in str(caught.value)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_permissions_are_those_of_any_new_file(umask, tmp_path) -> None:
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "file", b"")
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o666 & ~umask


@pytest.mark.parametrize("name", ["x" * 255, "x." + "y" * 253, "ä" * 127, "a" * 200 + ".bin"])
def test_the_longest_names_that_a_disk_takes(name, tmp_path) -> None:
    write_atomically(tmp_path / name, b"content")
    with temporary(tmp_path, Path(name).suffix) as path:
        path.touch()
        assert len(os.fsencode(path.name)) < 143


@pytest.mark.parametrize("kind", ["fifo", "device"])
def test_what_is_no_file_is_not_replaced(kind, tmp_path) -> None:
    path = Path("/dev/null")
    if kind == "fifo":
        path = tmp_path / "fifo"
        os.mkfifo(path)
    with pytest.raises(OSError, match="not a regular file"):
        write_atomically(path, b"content")
    assert not path.is_file()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_that_ends_leaves_its_parents_files_alone(tmp_path) -> None:
    child = None
    try:
        with temporary(tmp_path) as path:
            path.touch()
            child = os.fork()
            if child:
                os.waitpid(child, 0)
                assert path.exists()
    finally:
        if child == 0:
            os._exit(0)
    assert list(tmp_path.iterdir()) == []


def test_another_boot_is_another_world(monkeypatch) -> None:
    """Process numbers start over: a number of the last boot tells nothing in this one."""
    here = storage._habitat.__wrapped__()
    assert here == storage._habitat.__wrapped__()
    boot = Path("/proc/sys/kernel/random/boot_id")
    if not boot.exists():
        pytest.skip("this system has no boot id")
    read = Path.read_text
    monkeypatch.setattr(
        Path, "read_text", lambda path, *a: "another" if path == boot else read(path, *a)
    )
    assert storage._habitat.__wrapped__() != here


def test_a_home_that_does_not_exist_is_no_error(monkeypatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert storage.expanded("~/x") == Path("/home/somebody/x")
    assert storage.expanded("~nosuchuser/x") == Path("~nosuchuser/x")
