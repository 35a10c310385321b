"""CIFAR-10 and CIFAR-100, from a folder of any origin or from the official archive."""

import dataclasses
import hashlib
import pickle
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

from allcnn_zoo import CIFAR10, CIFAR100, neon
from allcnn_zoo.cli import main
from allcnn_zoo.errors import DatasetError, HubError

FILES = {
    CIFAR10: ("data_batch_3", "test_batch", "labels"),
    CIFAR100: ("train", "test", "fine_labels"),
}


@pytest.fixture(params=[CIFAR10, CIFAR100], ids=lambda kind: kind.name)
def kind(request) -> type[CIFAR10]:
    return request.param


@pytest.fixture
def copy(tmp_path, small_cifar10, kind) -> Path:
    """A copy of the data set's folder that a test may damage."""
    return shutil.copytree(small_cifar10 / kind.folder_name, tmp_path / "copy" / kind.folder_name)


def test_a_folder_is_read_as_arrays(small_cifar10, kind) -> None:
    data = kind(small_cifar10)
    assert data.train.images.shape == (100, 3, 32, 32)
    assert data.train.images.dtype == np.uint8
    assert data.train.labels.dtype == np.int64
    assert len(data.train) == len(data.train.filenames) == 100
    assert len(data.test) == 20
    assert data.test.filenames[3].endswith("_3.png")
    assert data.train.labels.max() < len(data.classes) == int(kind.name[5:])
    assert (data.train.labels.max() > 9) == (kind is CIFAR100)


def test_rows_are_red_green_and_blue_planes(small_cifar10, kind) -> None:
    _, test, labels = FILES[kind]
    batch = pickle.loads((small_cifar10 / kind.folder_name / test).read_bytes())
    split = kind(small_cifar10).test
    assert (split.images[5, 1, 2] == batch["data"][5, 1024 + 64 : 1024 + 96]).all()
    assert split.labels.tolist() == batch[labels]


@pytest.mark.parametrize("place", ["folder", "text", "tilde", "environment", "tilde there"])
def test_the_folder_is_named_by_argument_or_environment_and_never_downloaded(
    place, small_cifar10, kind, monkeypatch
) -> None:
    monkeypatch.setenv("HOME", str(small_cifar10.parent))
    tilde = f"~/{small_cifar10.name}"
    given = {"folder": small_cifar10 / kind.folder_name, "text": str(small_cifar10), "tilde": tilde}
    if place == "environment":
        monkeypatch.setenv("ALLCNN_ZOO_DATA", str(small_cifar10))
    elif place == "tilde there":
        monkeypatch.setenv("ALLCNN_ZOO_DATA", tilde)
    assert len(kind(given.get(place), download=True).test) == 20


def test_a_missing_folder_names_the_ways_to_get_it(tmp_path, kind) -> None:
    message = rf"--dataset {kind.name} --download.*ALLCNN_ZOO_DATA"
    for root in (tmp_path, tmp_path / ("x" * 300), "~nosuchuser/data"):
        with pytest.raises(DatasetError, match=message):
            kind(root)


@pytest.mark.parametrize(
    ("kind", "digest", "size"),
    [  # the digests and sizes that are published with the data sets and by torchvision's readers
        (CIFAR10, "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce", 170498071),
        (CIFAR100, "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7", 169001437),
    ],
)
def test_the_archives_are_the_official_ones(kind, digest, size) -> None:
    assert kind.archive.url == f"https://www.cs.toronto.edu/~kriz/{kind.archive.key}"
    assert (kind.archive.sha256, kind.archive.size) == (digest, size)


def interrupted(_: object, folder: Path) -> None:
    """Unpack a part, until somebody presses Ctrl-C."""
    (folder / "a part").mkdir(parents=True)
    raise KeyboardInterrupt


def test_the_official_archive_is_downloaded_verified_and_unpacked(
    tmp_path, small_cifar10, monkeypatch, kind
) -> None:
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    monkeypatch.setenv("ALLCNN_ZOO_MIRRORS", str(mirror))
    archive = mirror / kind.archive.key
    shutil.make_archive(
        str(archive).removesuffix(".tar.gz"), "gztar", small_cifar10, base_dir=kind.folder_name
    )
    with pytest.raises(HubError, match=kind.archive.key):  # it has another digest
        kind(tmp_path / "data", download=True)
    assert not list((tmp_path / "data").iterdir())
    content = archive.read_bytes()
    facts = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    monkeypatch.setattr(kind, "archive", dataclasses.replace(kind.archive, **facts))
    with monkeypatch.context() as patch:
        patch.setattr(tarfile.TarFile, "extractall", interrupted)
        with pytest.raises(KeyboardInterrupt):
            kind(tmp_path / "data", download=True)
    shutil.rmtree(mirror)  # what was downloaded is kept
    data = kind(tmp_path / "data", download=True)
    np.testing.assert_array_equal(data.test.images, kind(small_cifar10).test.images)
    assert [path.name for path in (tmp_path / "data").iterdir()] == [kind.folder_name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda batch, _: batch.pop("data"), "'data' is None, and not a uint8 array"),
        (lambda batch, _: batch.update(data=np.zeros((20, 3072))), "'data' is a float64 array"),
        (lambda batch, _: batch.update(data=np.zeros((20, 9), np.uint8)), r"\(20, 9\)"),
        (lambda batch, _: batch.update(data=np.zeros((0, 3072), np.uint8)), r"\(0, 3072\)"),
        (lambda batch, _: batch.update(data=np.zeros(3072, np.uint8)), r"\(3072,\)"),
        (lambda batch, key: batch.pop(key), "20 values"),
        (lambda batch, key: batch.update({key: [1]}), "20 values"),
        (lambda batch, key: batch.update({key: [100] * 20}), r"0\.\.\.9"),
        (lambda batch, key: batch.update({key: [True] * 20}), r"0\.\.\.9"),
        (lambda batch, _: batch.update(filenames=["x"]), "20 values"),
    ],
)
def test_a_damaged_batch_is_named(copy, kind, change, message: str) -> None:
    _, test, labels = FILES[kind]
    batch = pickle.loads((copy / test).read_bytes())
    change(batch, labels)
    (copy / test).write_bytes(pickle.dumps(batch, protocol=2))
    with pytest.raises(DatasetError, match=f"{test}.*{message}"):
        _ = kind(copy).test


@pytest.mark.parametrize("content", [b"", b"cos\nsystem\n(S'true'\ntR.", b"\x80\x02]q\x00."])
def test_a_hostile_batch_is_refused_and_not_executed(copy, kind, content) -> None:
    name = FILES[kind][0]
    (copy / name).write_bytes(content)
    with pytest.raises(DatasetError, match=name):
        _ = kind(copy).train


def test_the_command_knows_both(small_cifar10, kind, capsys) -> None:
    assert main(["data", "--dataset", kind.name, "--data", str(small_cifar10)]) == 0
    assert f"{kind.folder_name}: 100 training and 20 test images" in capsys.readouterr().out
    assert main(["data", "--dataset", kind.name + "x", "--data", str(small_cifar10)]) == 1
    assert f"did you mean '{kind.name}'?" in capsys.readouterr().err


def test_each_coarse_class_of_cifar100_has_five_fine_ones() -> None:
    assert len(CIFAR100.coarse_classes) == 20
    assert np.bincount(CIFAR100.coarse_of).tolist() == [5] * 20
    coarse = np.take(CIFAR100.coarse_of, CIFAR100.classes.index("wolf"))
    assert CIFAR100.coarse_classes[coarse] == "large_carnivores"


def test_the_real_data_sets_are_what_their_makers_say(real_cifar10, kind) -> None:
    if not (real_cifar10 / kind.folder_name).exists():
        pytest.skip(f"no {kind.folder_name} in ALLCNN_ZOO_TEST_DATA")
    data = kind(real_cifar10)
    classes = len(data.classes)
    assert np.bincount(data.train.labels).tolist() == [50_000 // classes] * classes
    assert np.bincount(data.test.labels).tolist() == [10_000 // classes] * classes
    published, meta, key = {
        "cifar10": ([0.49139968, 0.48215841, 0.44653091], "batches.meta", "label_names"),
        "cifar100": ([0.50707516, 0.48654887, 0.44091784], "meta", "fine_label_names"),
    }[kind.name]
    means = [data.train.images[:, plane].mean() / 255 for plane in range(3)]
    np.testing.assert_allclose(means, published, atol=1e-7)
    assert tuple(neon.read_pickle(data.folder / meta)[key]) == kind.classes
    if kind is CIFAR100:
        test = neon.read_pickle(data.folder / "test")
        assert np.take(CIFAR100.coarse_of, data.test.labels).tolist() == test["coarse_labels"]
        assert tuple(neon.read_pickle(data.folder / meta)["coarse_label_names"]) == (
            CIFAR100.coarse_classes
        )
