"""From neon's file to ours: neon's own probabilities, provenance, the same bytes every time."""

import json
import os

import numpy as np
import pytest

from allcnn_zoo import Classifier, Metadata, convert_neon, load, rescue_neon
from allcnn_zoo.architectures import CIFAR10_CLASSES
from allcnn_zoo.checkpoint import build, read_metadata
from allcnn_zoo.errors import NeonError, NotAllCNNError
from allcnn_zoo.from_neon import read_neon

from .neon.writer import neon_file, python2_pickle, python3_pickle


@pytest.fixture
def legacy(tmp_path):
    path = tmp_path / "old.p"
    path.write_bytes(python2_pickle(neon_file()))
    return path


def test_the_same_input_gives_the_same_bytes_wherever_it_lies(legacy, tmp_path) -> None:
    copy = tmp_path / "elsewhere.p"
    copy.write_bytes(legacy.read_bytes())
    for source in (legacy, copy):
        convert_neon(source, source.with_suffix(".safetensors"))
    first = legacy.with_suffix(".safetensors").read_bytes()
    assert first == copy.with_suffix(".safetensors").read_bytes()


@pytest.mark.parametrize("convert", [convert_neon, rescue_neon])
@pytest.mark.parametrize("way", ["itself", "a link to it", "through a folder's link"])
def test_the_legacy_file_is_never_written_over(legacy, tmp_path, convert, way) -> None:
    before = legacy.read_bytes()
    (tmp_path / "link.p").symlink_to(legacy)
    (tmp_path / "folder").symlink_to(tmp_path)
    names = {"itself": "old.p", "a link to it": "link.p", "through a folder's link": "folder/old.p"}
    with pytest.raises(NeonError, match="would be overwritten"):
        convert(legacy, tmp_path / names[way])
    assert legacy.read_bytes() == before


def test_what_is_no_regular_file_is_not_replaced(legacy, tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        convert_neon(legacy, tmp_path / "pipe")
    assert (tmp_path / "pipe").is_fifo()


def test_python_2_and_python_3_files_of_the_same_network_give_the_same_weights(tmp_path) -> None:
    tree = neon_file()
    weights = []
    for name, dump in (("py2.p", python2_pickle), ("py3.p", python3_pickle)):
        (tmp_path / name).write_bytes(dump(tree))
        weights.append(read_neon(tmp_path / name)[0])
    assert weights[0].keys() == weights[1].keys()
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[0])


def test_the_header_says_where_the_weights_come_from(legacy, tmp_path) -> None:
    destination = tmp_path / "new.safetensors"
    returned = convert_neon(legacy, destination, source_url="https://example.org/old.p")
    metadata = read_metadata(destination)
    assert metadata == Metadata(**vars(returned))
    provenance = metadata.provenance
    assert provenance["source"]["url"] == "https://example.org/old.p"
    assert len(provenance["source"]["sha256"]) == 64
    assert provenance["neon_version"] == "2.3.0"
    assert provenance["epoch"] == 350
    assert provenance["dropout_folded"] == {
        "features.conv1": 0.8,
        "features.conv4": 0.5,
        "features.conv7": 0.5,
    }
    assert provenance["padding_outputs_dropped"] == 6
    assert "converter_version" in provenance
    assert json.dumps(provenance)


@pytest.mark.parametrize(
    ("outputs", "keep_padding", "names"),
    [
        (16, False, CIFAR10_CLASSES),
        (16, True, (*CIFAR10_CLASSES, *(f"padding_{i}" for i in range(10, 16)))),
        (10, False, CIFAR10_CLASSES),
        (3, False, ("class_0", "class_1", "class_2")),
    ],
)
def test_outputs_get_their_names(tmp_path, outputs, keep_padding, names) -> None:
    path = tmp_path / "old.p"
    path.write_bytes(python2_pickle(neon_file(outputs=outputs)))
    assert convert_neon(path, tmp_path / "new.safetensors", keep_padding).classes == names
    assert load(tmp_path / "new.safetensors").classifier.out_channels == len(names)


def test_a_neon_file_can_be_loaded_without_converting_it_first(legacy, tmp_path, noise) -> None:
    convert_neon(legacy, tmp_path / "new.safetensors")
    direct, converted = load(legacy), load(tmp_path / "new.safetensors")
    images = noise(2, 3, 32, 32)
    assert (direct(images) == converted(images)).all()
    assert direct.weights == converted.weights


def test_a_file_that_is_refused_costs_nothing(tmp_path) -> None:
    (tmp_path / "evil.p").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    destination = tmp_path / "precious.safetensors"
    destination.write_bytes(b"precious")
    with pytest.raises(NeonError, match=r"evil\.p"):
        convert_neon(tmp_path / "evil.p", destination)
    assert destination.read_bytes() == b"precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evil.p", "precious.safetensors"]


def test_what_had_to_be_assumed_is_a_warning_and_on_record(tmp_path, shared) -> None:
    source = shared / "neon" / "allcnn" / "allcnn_tiny_v1.1.5_plain.p"
    with pytest.warns(UserWarning, match="assum|does not record|without their network"):
        metadata = convert_neon(source, tmp_path / "new.safetensors")
    assert len(metadata.provenance["assumed"]) == 2


# Neon's own words: the genuine files.


@pytest.mark.filterwarnings("ignore:.*neon 1.1")
def test_every_genuine_file_gives_neons_own_probabilities(shared) -> None:
    folder = shared / "neon" / "allcnn"
    images = np.load(folder / "input16.npz")["images"]
    files = sorted(folder.glob("*.p"))
    assert files
    for path in files:
        classifier = Classifier(build(*read_neon(path, keep_padding=True)))
        expected = np.load(path.with_name(f"{path.stem}_ref.npz"))["softmax"]
        np.testing.assert_allclose(
            classifier.predict_proba(images), expected, atol=1e-4, rtol=0, err_msg=path.name
        )


def test_other_networks_are_refused_as_such(shared) -> None:
    files = sorted((shared / "neon").glob("generic*/*.p"))
    assert files
    for path in files:
        with pytest.raises(NotAllCNNError, match=f"{path.name}.*not All-CNN-C"):
            read_neon(path)


def test_the_published_stand_in_agrees_with_neon_on_all_test_images(shared, real_cifar10) -> None:
    from allcnn_zoo import CIFAR10

    test = CIFAR10(real_cifar10).test
    published = shared / "neon" / "s3" / "cifar10_allcnn" / "cifar10_allcnn_e350.p"
    reference = np.load(shared / "neon" / "s3_reference.npz")
    row = {name: index for index, name in enumerate(reference["filenames"])}
    expected = reference["softmax"][[row[name] for name in test.filenames]]
    classifier = Classifier(build(*read_neon(published, keep_padding=True)))
    probabilities = classifier.predict_proba(test.images)
    np.testing.assert_allclose(probabilities, expected, atol=1e-4, rtol=0)
    assert (probabilities.argmax(1) == expected.argmax(1)).sum() >= 9_998
    error = (probabilities.argmax(1) != test.labels).mean()
    measured = json.loads((shared / "neon" / "s3_reference.json").read_text())
    assert abs(error - measured["misclassification"]) < 1e-3
