"""CIFAR-10, from a folder of any origin or from the official archive."""

import pickle
import shutil

import numpy as np
import pytest

from allcnn_zoo import CIFAR10
from allcnn_zoo.errors import DatasetError, HubError

FOLDER = "cifar-10-batches-py"


def test_a_folder_is_read_as_arrays(small_cifar10) -> None:
    data = CIFAR10(small_cifar10)
    assert data.train.images.shape == (100, 3, 32, 32)
    assert data.train.images.dtype == np.uint8
    assert data.train.labels.dtype == np.int64
    assert len(data.train) == len(data.train.filenames) == 100
    assert len(data.test) == 20
    assert data.test.filenames[3] == "test_batch_3.png"


def test_rows_are_red_green_and_blue_planes(small_cifar10) -> None:
    batch = pickle.loads((small_cifar10 / FOLDER / "test_batch").read_bytes())
    image = CIFAR10(small_cifar10).test.images[5]
    assert (image[1, 2] == batch["data"][5, 1024 + 64 : 1024 + 96]).all()


def test_the_folder_itself_may_be_given(small_cifar10) -> None:
    assert len(CIFAR10(small_cifar10 / FOLDER).test) == 20
    assert len(CIFAR10(str(small_cifar10)).test) == 20


def test_the_environment_may_name_the_folder(small_cifar10, monkeypatch) -> None:
    monkeypatch.setenv("ALLCNN_ZOO_DATA", str(small_cifar10))
    assert len(CIFAR10().test) == 20


def test_a_folder_that_is_there_is_never_downloaded(small_cifar10) -> None:
    assert len(CIFAR10(small_cifar10, download=True).test) == 20


def test_a_missing_folder_names_the_ways_to_get_it(tmp_path) -> None:
    with pytest.raises(DatasetError, match=r"--download.*ALLCNN_ZOO_DATA"):
        CIFAR10(tmp_path)


def test_an_archive_with_another_digest_is_refused(tmp_path, monkeypatch) -> None:
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    (mirror / "cifar-10-python.tar.gz").write_bytes(b"not the archive")
    monkeypatch.setenv("ALLCNN_ZOO_MIRRORS", str(mirror))
    with pytest.raises(HubError, match="cifar-10-python"):
        CIFAR10(tmp_path / "data", download=True)
    assert not list((tmp_path / "data").glob("*"))


def test_the_official_archive_is_downloaded_verified_and_unpacked(
    tmp_path, small_cifar10, serve, monkeypatch
) -> None:
    import dataclasses
    import hashlib

    from allcnn_zoo import cifar

    mirror = tmp_path / "mirror"
    mirror.mkdir()
    archive = shutil.make_archive(
        str(mirror / "cifar-10-python"), "gztar", small_cifar10, base_dir=FOLDER
    )
    content = (mirror / "cifar-10-python.tar.gz").read_bytes()
    assert archive.endswith(".tar.gz")
    record = dataclasses.replace(
        cifar.ARCHIVE, sha256=hashlib.sha256(content).hexdigest(), size=len(content)
    )
    monkeypatch.setattr(cifar, "ARCHIVE", record)
    monkeypatch.setenv("ALLCNN_ZOO_MIRRORS", serve(mirror).url)
    monkeypatch.setenv("ALLCNN_ZOO_OFFLINE", "0")
    data = CIFAR10(tmp_path / "data", download=True)
    np.testing.assert_array_equal(data.test.images, CIFAR10(small_cifar10).test.images)
    assert [path.name for path in (tmp_path / "data").iterdir()] == [FOLDER]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda batch: batch.pop("data"), "no uint8 matrix"),
        (lambda batch: batch.update(data=np.zeros((20, 3072))), "no uint8 matrix"),
        (lambda batch: batch.update(data=np.zeros((20, 9), np.uint8)), r"\(20, 9\)"),
        (lambda batch: batch.update(labels=[1]), "20 labels"),
        (lambda batch: batch.update(labels=[10] * 20), r"0\.\.\.9"),
        (lambda batch: batch.update(labels=[True] * 20), r"0\.\.\.9"),
        (lambda batch: batch.update(filenames=["x"]), "20 names"),
    ],
)
def test_a_damaged_batch_is_named(tmp_path, small_cifar10, change, message: str) -> None:
    shutil.copytree(small_cifar10, tmp_path / "copy")
    path = tmp_path / "copy" / FOLDER / "test_batch"
    batch = pickle.loads(path.read_bytes())
    change(batch)
    path.write_bytes(pickle.dumps(batch, protocol=2))
    with pytest.raises(DatasetError, match=f"test_batch.*{message}"):
        _ = CIFAR10(tmp_path / "copy").test


@pytest.mark.parametrize("content", [b"", b"cos\nsystem\n(S'true'\ntR.", b"\x80\x02]q\x00."])
def test_a_hostile_batch_is_refused_and_not_executed(tmp_path, small_cifar10, content) -> None:
    shutil.copytree(small_cifar10, tmp_path / "copy")
    (tmp_path / "copy" / FOLDER / "data_batch_3").write_bytes(content)
    with pytest.raises(DatasetError, match="data_batch_3"):
        _ = CIFAR10(tmp_path / "copy").train


def test_the_real_data_set_is_what_its_makers_say(real_cifar10) -> None:
    data = CIFAR10(real_cifar10)
    assert np.bincount(data.train.labels).tolist() == [5000] * 10
    assert np.bincount(data.test.labels).tolist() == [1000] * 10
    means = data.train.images.mean(axis=(0, 2, 3)) / 255
    np.testing.assert_allclose(means, [0.49139968, 0.48215841, 0.44653091], atol=1e-7)
