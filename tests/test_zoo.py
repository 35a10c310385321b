"""The front door: names, weights, and what happens when they are unavailable."""

import dataclasses
import hashlib
import inspect
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import requests
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import allcnn_zoo
from allcnn_zoo import (
    CIFAR100,
    Classifier,
    create_model,
    evaluate,
    get_weights,
    hub,
    list_models,
    list_weights,
    load,
    zoo,
)
from allcnn_zoo.cifar import sample_images
from allcnn_zoo.errors import (
    AllCNNZooError,
    ArchitectureError,
    CheckpointError,
    HubError,
    OfflineError,
    UnknownNameError,
)

from .conftest import EXAMPLES, KEY
from .hub.faulty_server import whole
from .neon.writer import neon_file, python2_pickle

EXAMPLE_PATHS = sorted(EXAMPLES.glob("*.png"))
OTHER = dataclasses.replace(get_weights("neon_e350"), tag="other")


@pytest.fixture
def bucket(mirror, server, monkeypatch):
    """The mirror behind a server, which is asked first."""
    server.script(f"/{KEY}", whole((mirror / KEY).read_bytes()))
    monkeypatch.setenv("ALLCNN_ZOO_MIRRORS", server.url)
    monkeypatch.setenv("ALLCNN_ZOO_OFFLINE", "0")
    return server


def test_the_twelve_networks_are_listed_and_globbed() -> None:
    assert len(list_models()) == 12
    assert list_models("allcnn_*") == ["allcnn_a", "allcnn_b", "allcnn_c"]
    assert list_models("*_c") == ["base_c", "strided_cnn_c", "convpool_cnn_c", "allcnn_c"]
    assert list_models("nothing") == []
    assert list_models("*_c", pretrained=True) == list_models("*_c")


def test_the_number_of_classes_may_be_numpys() -> None:
    labels = np.array([0, 4, 2])
    model = create_model("allcnn_c", num_classes=labels.max() + 1)
    assert type(model.architecture.num_classes) is int
    assert model.classifier.out_channels == 5
    model.reset_classifier(np.uint8(3))
    assert model.num_classes == 3


@pytest.mark.parametrize("name", list_models())
def test_every_network_can_be_made_by_name(name: str) -> None:
    model = create_model(name, num_classes=7)
    assert model.training
    assert model.weights is None
    assert model.architecture.name == name
    assert model.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 7)


@pytest.mark.parametrize("name", list_models())
def test_every_network_has_weights_of_its_own_that_work_offline(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALLCNN_ZOO_OFFLINE", "1")
    model = create_model(name, weights="cifar10_plain")
    assert model.weights.architecture.name == name
    samples = sample_images()
    predicted = Classifier(model).predict_proba(samples.images[::4]).argmax(axis=1)
    assert (predicted == samples.labels[::4]).mean() > 0.8


@pytest.mark.parametrize("name", ["allcnn_a", "allcnn_b", "allcnn_c"])
def test_builders_are_short_for_create_model(name: str) -> None:
    builder = getattr(allcnn_zoo, name)
    options = ["pretrained", "weights", "num_classes", "progress"]
    assert list(inspect.signature(builder).parameters) == options
    assert builder(num_classes=4).architecture == create_model(name, num_classes=4).architecture


def test_the_papers_own_padding_can_be_asked_for() -> None:
    model = create_model("allcnn_c", last_padding=0, final_relu=False, widths=(4, 6))
    assert model.forward_features(torch.zeros(1, 3, 32, 32)).shape == (1, 6, 6, 6)


def test_published_weights_are_listed_with_all_that_is_known_of_them() -> None:
    record = get_weights("neon_e350")
    assert record in list_weights("allcnn_c")
    assert get_weights("allcnn_c.neon_e350") is record
    assert record.url.startswith("https://s3-us-west-1.amazonaws.com/nervana-modelzoo/")
    assert record.url.endswith(f"/{record.key}")
    assert record.metrics["top1"] == 89.5
    assert len(record.classes) == 10
    assert all(list_weights(name) for name in list_models())
    assert all(record.bundled for record in list_weights("allcnn_c")[1:])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: create_model("alcnn_c"), "did you mean 'allcnn_c'"),
        (lambda: create_model("allcnn_c.neon_350"), "did you mean 'allcnn_c.neon_e350'"),
        (lambda: create_model("allcnn_c", weights="imagenet"), "neon_e350"),
        (lambda: get_weights("imagenet"), "choose from .*neon_e350"),
        (lambda: list_weights("resnet"), "no network is called 'resnet'"),
        (lambda: create_model("allcnn_a", weights="neon_e350"), "does not fit allcnn_a"),
        (lambda: allcnn_zoo.allcnn_c("cifar10_plain", weights="cifar10_best"), "is not weights="),
        (lambda: create_model("allcnn_c.neon_e350", weights="cifar10_best"), "is not weights="),
        (lambda: create_model("allcnn_c.neon_e350", weights=OTHER), "is not weights="),
        (lambda: load("neon_e35"), "did you mean 'neon_e350'"),
        (lambda: load(None), "not a NoneType"),
        (lambda: load(5), "not a int"),
        (lambda: load("missing.p"), r"missing\.p"),
        (lambda: load("missing.safetensors"), r"missing\.safetensors"),
        (lambda: load("folder/neon_e350"), "folder/neon_e350: No such file"),
        (lambda: load("~nosuchuser/old.p"), "~nosuchuser/old.p: No such file"),
    ],
)
def test_a_wrong_name_is_answered_with_the_right_ones(call, message: str) -> None:
    with pytest.raises(AllCNNZooError, match=message):
        call()


def test_every_way_to_the_published_weights_leads_there(bucket) -> None:
    record = get_weights("neon_e350")
    for model in (
        allcnn_zoo.allcnn_c(pretrained=True),
        allcnn_zoo.allcnn_c(pretrained="neon_e350"),
        allcnn_zoo.allcnn_c(weights="neon_e350"),
        allcnn_zoo.allcnn_c(weights=record),
        create_model("allcnn_c.neon_e350", pretrained=True),
        create_model("allcnn_c", weights="DEFAULT"),
        create_model("allcnn_c", pretrained="DEFAULT"),
        load("neon_e350"),
        load("allcnn_c"),
        load(record),
    ):
        assert not model.training
        assert model.weights.tag == "neon_e350"
        assert model.weights.provenance["source"]["url"] == f"{bucket.url}/{KEY}"
        assert model.preprocess(torch.zeros(3, 32, 32, dtype=torch.uint8)).shape == (3, 32, 32)


def test_a_name_with_a_tag_but_without_pretrained_is_a_fresh_network() -> None:
    assert create_model("allcnn_c.neon_e350").weights is None


def test_the_second_time_nothing_is_requested_and_the_cache_is_enough(bucket, monkeypatch) -> None:
    first = allcnn_zoo.allcnn_c(pretrained=True)
    assert [request.path for request in bucket.requests] == [f"/{KEY}"]
    for offline in "01":
        monkeypatch.setenv("ALLCNN_ZOO_OFFLINE", offline)
        again = allcnn_zoo.allcnn_c(pretrained=True)
        assert len(bucket.requests) == 1
        assert again.weights == first.weights
        for name, tensor in first.state_dict().items():
            assert torch.equal(tensor, again.state_dict()[name])


def test_another_version_of_the_converter_converts_again(bucket, monkeypatch) -> None:
    before = allcnn_zoo.download("neon_e350")
    monkeypatch.setattr("allcnn_zoo.weights.CONVERTER_VERSION", 99)
    after = allcnn_zoo.download("neon_e350")
    assert after != before
    assert after.read_bytes() == before.read_bytes()
    assert len(bucket.requests) == 1


def test_when_nothing_can_be_reached_the_error_says_what_to_do(monkeypatch) -> None:
    monkeypatch.setenv("ALLCNN_ZOO_OFFLINE", "0")
    closed = dataclasses.replace(get_weights("neon_e350"), url=f"http://127.0.0.1:9/{KEY}")
    with pytest.raises(HubError) as caught:
        allcnn_zoo.allcnn_c(weights=closed)
    for word in (closed.url, "refused", "ALLCNN_ZOO_MIRRORS", "allcnn-zoo convert"):
        assert word in str(caught.value)


def test_without_the_published_weights_those_in_the_package_step_in_loudly() -> None:
    with pytest.warns(UserWarning, match="unavailable") as caught:
        model = allcnn_zoo.allcnn_c(pretrained=True)
    assert model.weights.tag == "cifar10_best"
    message = str(caught[0].message)
    assert len(message.splitlines()) == 2
    for word in ("loaded cifar10_best", "weights='cifar10_best'", "download neon_e350"):
        assert word in message


@pytest.mark.parametrize("record", [record for record in list_weights() if record.bundled])
def test_weights_in_the_package_are_what_their_results_say(record) -> None:
    model = create_model(record.architecture, weights=record)
    assert model.weights.tag == record.tag
    assert model.weights.metrics["test"]["accuracy"] == pytest.approx(record.metrics["top1"] / 100)
    assert zoo.download(record).stat().st_size < 6_000_000
    if record.dataset == "CIFAR-10":
        found = Classifier(model)(EXAMPLE_PATHS)
        right = [one.label == path.stem for one, path in zip(found, EXAMPLE_PATHS, strict=True)]
        assert sum(right) >= 9


def test_weights_for_cifar100_know_its_classes(real_cifar10) -> None:
    classifier = Classifier(create_model("allcnn_c.cifar100", pretrained=True))
    test = CIFAR100(real_cifar10).test
    found = evaluate(classifier, test.images[:300], test.labels[:300])
    assert found.accuracy == pytest.approx(0.73, abs=0.08)


def test_a_tag_is_honored_wherever_it_is_given() -> None:
    for make in (
        lambda: allcnn_zoo.allcnn_c(pretrained="cifar10_plain"),
        lambda: allcnn_zoo.allcnn_c(True, weights="cifar10_plain"),
        lambda: create_model("allcnn_c.cifar10_plain", pretrained=True),
    ):
        assert make().weights.tag == "cifar10_plain"


def test_no_classes_are_features() -> None:
    model = allcnn_zoo.allcnn_c(pretrained="cifar10_plain", num_classes=0)
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 192)
    assert create_model("base_a", num_classes=0)(torch.zeros(2, 3, 32, 32)).shape == (2, 192)


# A zoo of one's own: our weights files, anywhere.


@pytest.fixture
def lab(tmp_path):
    """A folder that holds weights of somebody's own."""
    folder = tmp_path / "lab"
    folder.mkdir()
    model = create_model("base_b", num_classes=2, widths=(4, 6))
    model.save(folder / "pets.safetensors", classes=["cat", "dog"], tag="pets")
    return folder


def records(lab, server):
    file = lab / "pets.safetensors"
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    url = server.script("/pets.safetensors", whole(file.read_bytes()))
    for place in (url, file.as_uri(), str(file)):
        for sha256 in (None, digest):
            yield allcnn_zoo.Weights("lab_v1", "base_b", url=place, sha256=sha256)


def test_a_record_of_ones_own_leads_to_weights_anywhere(lab, server, monkeypatch) -> None:
    monkeypatch.setenv("ALLCNN_ZOO_OFFLINE", "0")
    for record in records(lab, server):
        for model in (load(record), create_model("base_b", weights=record, num_classes=2)):
            assert (model.weights.tag, model.weights.classes) == ("lab_v1", ("cat", "dog"))
        with pytest.raises(UnknownNameError, match="does not fit allcnn_c"):
            create_model("allcnn_c", weights=record)
        with pytest.raises(HubError):
            load(dataclasses.replace(record, sha256="0" * 64))
        with pytest.raises(CheckpointError, match="holds weights of base_b, not of base_a"):
            load(dataclasses.replace(record, architecture="base_a"))


def test_a_published_name_is_no_claim_of_changed_weights(lab) -> None:
    file = lab / "pets.safetensors"
    with safe_open(file, "pt") as opened:
        header = opened.metadata()
    tensors = load_file(file)
    tensors["classifier.bias"] += 1
    save_file(tensors, file, header)
    with pytest.warns(UserWarning, match="not those that the header describes"):
        model = load(allcnn_zoo.Weights("lab_v1", "base_b", url=str(file)))
    assert model.weights.tag == "custom"


def test_a_files_suffix_and_a_records_address_may_be_written_otherwise(lab) -> None:
    file = (lab / "pets.safetensors").rename(lab / "PETS.SAFETENSORS")
    for source in (file, file.as_uri(), allcnn_zoo.Weights("pets", "base_b", url=file)):
        assert load(source).weights.tag == "pets"


@pytest.mark.parametrize("weights", [Path("pets.safetensors"), "pets.safetensors", True, 5])
def test_what_is_neither_a_tag_nor_a_record_is_refused_by_name(weights) -> None:
    with pytest.raises(UnknownNameError, match=r"no published set of weights .*choose from"):
        create_model("allcnn_c", weights=weights)
    with pytest.raises(UnknownNameError, match="no published set of weights"):
        allcnn_zoo.download(weights)


def test_neon_pickles_are_fetched_from_any_address(bucket) -> None:
    model = load(f"{bucket.url}/{KEY}")
    assert model.weights.provenance["source"]["url"] == f"{bucket.url}/{KEY}"


@pytest.mark.parametrize("address", ["s3://bucket/x.p", "ftp://host/x.safetensors", "https:/x.p"])
def test_an_address_of_another_kind_is_answered_with_those_that_work(address: str) -> None:
    with pytest.raises(HubError, match=r"https://.*file://") as caught:
        load(address)
    assert address in str(caught.value)


def test_naming_a_tag_never_substitutes_and_the_error_names_the_switch() -> None:
    for options in ({"pretrained": True}, {"weights": "neon_e350"}):
        with pytest.raises(OfflineError, match="ALLCNN_ZOO_OFFLINE"):
            create_model("allcnn_c.neon_e350", **options)


def test_a_mirror_that_delivers_something_else_is_found_out(tmp_path, monkeypatch) -> None:
    tree = neon_file()
    tree["model"]["config"]["layers"].pop()
    (tmp_path / KEY).parent.mkdir()
    (tmp_path / KEY).write_bytes(python2_pickle(tree))
    monkeypatch.setenv("ALLCNN_ZOO_MIRRORS", str(tmp_path))
    with pytest.raises(HubError, match=r"(?s)cifar10_allcnn_e350\.p.*not All-CNN-C"):
        allcnn_zoo.allcnn_c(weights="neon_e350")


def test_a_session_of_ones_own_and_a_pinned_digest_can_be_used(bucket, tmp_path) -> None:
    right = hashlib.sha256((tmp_path / "mirror" / KEY).read_bytes()).hexdigest()
    with requests.Session() as session:
        session.headers["X-Department"] = "research"
        cache = hub.Cache(tmp_path / "elsewhere", session=session)
        pinned = dataclasses.replace(get_weights("neon_e350"), sha256=right)
        assert allcnn_zoo.download(pinned, cache=cache).is_relative_to(tmp_path / "elsewhere")
        wrong = dataclasses.replace(
            get_weights("neon_e350"), sha256="0" * 64, url=f"{bucket.url}/x"
        )
        with pytest.raises(HubError, match=right):
            allcnn_zoo.download(wrong, cache=cache)


def test_other_classes_keep_the_trunk_and_say_so(bucket) -> None:
    trained = allcnn_zoo.allcnn_c(pretrained=True)
    for count in (1, 5, 20):
        with pytest.warns(UserWarning, match=f"num_classes={count}.*random"):
            model = allcnn_zoo.allcnn_c(pretrained=True, num_classes=count)
        kernel = model.classifier.weight
        assert len(kernel) == model.architecture.num_classes == count
        assert not (kernel[:10] == trained.classifier.weight[:count]).any()
        for name, tensor in model.features.state_dict().items():
            assert torch.equal(tensor, trained.features.state_dict()[name])


def test_an_architecture_that_contradicts_the_weights_is_refused(bucket) -> None:
    model = create_model("allcnn_c", pretrained=True, widths=(2, 3), last_padding=1)
    assert model.architecture.widths == (2, 3)
    with pytest.raises(ArchitectureError, match="last_padding=0 does not go with"):
        create_model("allcnn_c", pretrained=True, last_padding=0)


ERRORS = [
    kind
    for kind in vars(allcnn_zoo.errors).values()
    if isinstance(kind, type) and kind.__module__ == "allcnn_zoo.errors"
]


@pytest.mark.parametrize("kind", ERRORS)
def test_every_error_is_of_one_family_and_can_cross_processes(kind: type[Exception]) -> None:
    assert issubclass(kind, AllCNNZooError)
    assert str(pickle.loads(pickle.dumps(kind("what happened")))) == "what happened"


def test_in_an_archive_the_missing_folder_is_named(tmp_path) -> None:
    sources = Path(allcnn_zoo.__file__).parent
    with zipfile.ZipFile(tmp_path / "library.zip", "w") as archive:
        for path in sources.rglob("*.py"):
            archive.write(path, path.relative_to(sources.parent))
    code = "import allcnn_zoo; allcnn_zoo.load('cifar10_best')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "library.zip")},
    )
    last = done.stderr.splitlines()[-1]
    assert "CheckpointError" in last
    assert "assets is not a folder" in last
