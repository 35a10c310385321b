"""What a network says about its weights was measured, and holds for the very numbers."""

import copy
import dataclasses
import pickle

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune

from allcnn_zoo import (
    AllCNN,
    Architecture,
    Classifier,
    Metadata,
    Preprocessor,
    fold_batch_norm,
    load,
)
from allcnn_zoo.errors import AllCNNZooError, ArchitectureError, CheckpointError
from allcnn_zoo.preprocessing import PREPROCESSINGS, WhiteningParameters, get_preprocessing

SMALL = Architecture(widths=(4, 6), num_classes=3)
CLAIMS = {"tag": "mine", "provenance": {"recipe": "mine"}, "metrics": {"top1": 93.9}}


def own_statistics() -> Preprocessor:
    """Statistics that no image gave: fitting some would take ten seconds."""
    noise = torch.rand(3072, 3072, generator=torch.Generator().manual_seed(0)) / 1000
    matrix = torch.eye(3072) + noise + noise.T
    return Preprocessor(torch.linspace(-1, 1, 3072), matrix, WhiteningParameters(count=2))


@pytest.fixture
def model() -> AllCNN:
    torch.manual_seed(0)
    model = AllCNN(SMALL).eval()
    model.weights = Metadata(architecture=SMALL, classes=("a", "b", "c"), **CLAIMS)
    return model


NOTHING = {"tag": "custom", "provenance": {}, "metrics": {}}


def claims(model: AllCNN) -> dict:
    assert model.weights is not None
    return {name: getattr(model.weights, name) for name in CLAIMS}


def train_on(model: AllCNN) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    model(torch.ones(2, 3, 32, 32)).sum().backward()
    optimizer.step()


def average_over_training(model: AllCNN) -> None:
    average = torch.optim.swa_utils.AveragedModel(model)
    average.update_parameters(model)
    train_on(model)
    average.update_parameters(model)
    model.load_state_dict(average.module.state_dict())


CHANGES = {
    "training on": train_on,
    "noise": lambda m: m.features.conv2.weight.data.add_(1e-4),
    "through numpy": lambda m: m.classifier.bias.detach().numpy().__setitem__(0, 9.0),
    "another state_dict": lambda m: m.load_state_dict(AllCNN(SMALL).state_dict()),
    "half precision": lambda m: m.half().float(),
    "another last ReLU": lambda m: setattr(m, "final_activation", nn.Identity()),
    "another padding": lambda m: setattr(m.features.conv7, "padding", (0, 0)),
    "another preprocessing": lambda m: setattr(m, "preprocess", nn.Identity()),
    "other statistics": lambda m: m.preprocess.mean.add_(1),
    "other statistics, past PyTorch": lambda m: m.preprocess.matrix.data[5].mul_(1.001),
    "another contrast": lambda m: setattr(m.preprocess, "fitted_with", WhiteningParameters(50.0)),
    "another ReLU": lambda m: setattr(m.features, "relu2", nn.GELU()),
    "another stride": lambda m: setattr(m.features.conv4, "stride", (2, 2)),
    "one more layer": lambda m: m.features.add_module("more", nn.Softplus()),
    "pruning": lambda m: prune.l1_unstructured(m.features.conv2, "weight", 0.5),
    "an average over training": average_over_training,
}


@pytest.mark.parametrize("change", CHANGES)
def test_no_claim_survives_a_change(model, change: str) -> None:
    assert claims(model) == CLAIMS
    CHANGES[change](model)
    assert claims(model) == NOTHING
    assert model.weights.classes == ("a", "b", "c")


@given(st.data())
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_claim_survives_any_other_number(model, data) -> None:
    changed = copy.deepcopy(model)
    tensor = data.draw(st.sampled_from(list(changed.parameters()))).data.view(-1)
    place = data.draw(st.integers(0, len(tensor) - 1))
    bits = tensor[place : place + 1].view(torch.int32)
    bits ^= 1 << data.draw(st.integers(0, 30))
    assert claims(changed) == NOTHING
    assert claims(model) == CLAIMS


@pytest.mark.parametrize(
    "same",
    [
        copy.deepcopy,
        lambda m: pickle.loads(pickle.dumps(m)),
        lambda m: m.double(),
        lambda m: m.to(memory_format=torch.channels_last),
        lambda m: m.train(),
        lambda m: setattr(m.features, "dropout1", nn.Identity()) or m,
        lambda m: setattr(m.features.relu1, "inplace", True) or m,
        lambda m: m.preprocess.load_state_dict(m.preprocess.state_dict()) and m,
    ],
)
def test_claims_survive_what_leaves_the_function_alone(model, same) -> None:
    assert claims(same(model)) == CLAIMS


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("features.relu3", nn.LeakyReLU()),
        ("features.conv1", nn.Conv2d(3, 4, 3, padding=2, dilation=2)),
        ("features.pool", nn.MaxPool2d(2)),
        ("classifier", nn.Sequential(nn.Conv2d(6, 3, 1))),
        ("final_activation", nn.Tanh()),
    ],
)
def test_what_a_file_cannot_describe_is_neither_saved_nor_folded(
    model, tmp_path, name, layer
) -> None:
    parent, _, child = name.rpartition(".")
    model.get_submodule(parent).add_module(child, layer)
    with pytest.raises(CheckpointError, match=rf"^{name} was replaced.*allcnn_c$"):
        model.save(tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=name):
        fold_batch_norm(model)
    assert not list(tmp_path.iterdir())


def test_statistics_changed_in_place_travel_as_ones_own(model, tmp_path) -> None:
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    named = model.preprocess(pixels)
    model.preprocess.mean.add_(1)
    model.save(tmp_path / "changed.safetensors")
    for changed in (model, copy.deepcopy(model), load(tmp_path / "changed.safetensors")):
        torch.testing.assert_close(changed.preprocess(pixels), model.preprocess(pixels))
        assert not torch.allclose(changed.preprocess(pixels), named)
        assert (changed.weights.preprocessing, claims(changed)) == ("own", NOTHING)


def test_a_change_between_loading_and_the_first_look_is_noticed() -> None:
    published = load("cifar10_plain")
    published.classifier.bias.data[0] += 1e-3
    assert published.weights.tag == "custom"
    assert load("cifar10_plain").weights.tag == "cifar10_plain"


def test_whoever_reads_the_claims_sees_what_holds(model, tmp_path) -> None:
    assert Classifier(model, engine="torch").weights.metrics == CLAIMS["metrics"]
    CHANGES["noise"](model)
    assert Classifier(model, engine="torch").weights.metrics == {}
    model.save(tmp_path / "noisy.safetensors")
    assert claims(load(tmp_path / "noisy.safetensors")) == NOTHING


@pytest.mark.parametrize(
    "replace",
    [
        lambda m: m.reset_classifier(3),
        lambda m: m.reset_classifier(5),
        lambda m: setattr(m, "classifier", nn.Conv2d(6, 3, 1)),
        lambda m: setattr(m, "classifier", nn.Conv2d(6, 3, 1, bias=False)),
        lambda m: m.reset_classifier(0),
    ],
)
def test_nobody_knows_the_classes_of_another_last_convolution(model, replace, tmp_path) -> None:
    copied = copy.deepcopy(model)
    replace(model)
    for each in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert each.weights is None
        with pytest.raises(AllCNNZooError, match=r"last convolution was replaced.*save\(path, cl"):
            Classifier(each)
    if model.num_classes:
        with pytest.raises(CheckpointError, match=r"classes=|classifier was replaced"):
            model.save(tmp_path / "x.safetensors")
        assert not list(tmp_path.iterdir())
    assert claims(copied) == CLAIMS


def test_a_description_of_another_network_is_refused(model) -> None:
    with pytest.raises(CheckpointError, match="the network is"):
        model.weights = Metadata("other", Architecture(), tuple("abcdefghij"))


# Saving is one call.


@pytest.mark.parametrize("batch_norm", [False, True])
def test_a_network_trained_from_scratch_is_saved_and_loaded(tmp_path, noise, batch_norm) -> None:
    model = AllCNN(SMALL, batch_norm=batch_norm)
    train_on(model)
    model.save(tmp_path / "pets.safetensors", classes=["cat", "dog", "cow"], tag="pets")
    loaded = load(tmp_path / "pets.safetensors")
    assert (loaded.weights.tag, loaded.weights.classes) == ("pets", ("cat", "dog", "cow"))
    images = noise(2, 3, 32, 32)
    torch.testing.assert_close(loaded(images), model.eval()(images), atol=1e-5, rtol=1e-5)


def test_what_is_left_out_is_taken_from_what_holds(model, tmp_path) -> None:
    model.save(tmp_path / "same.safetensors")
    assert claims(load(tmp_path / "same.safetensors")) == CLAIMS
    train_on(model)
    model.save(tmp_path / "on.safetensors", tag="further")
    assert claims(load(tmp_path / "on.safetensors")) == {**NOTHING, "tag": "further"}


def test_features_are_saved_without_class_names(model, tmp_path, noise) -> None:
    model.reset_classifier(0)
    model.save(tmp_path / "features.safetensors")
    loaded = load(tmp_path / "features.safetensors")
    assert loaded(noise(1, 3, 32, 32)).shape == (1, 6)


@pytest.mark.parametrize("name", list(PREPROCESSINGS))
def test_a_named_preprocessing_is_remembered_by_its_name(model, tmp_path, name: str) -> None:
    model.preprocess = get_preprocessing(name)
    model.save(tmp_path / "named.safetensors")
    assert (tmp_path / "named.safetensors").stat().st_size < 50_000
    loaded = load(tmp_path / "named.safetensors")
    assert loaded.weights.preprocessing == name
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    torch.testing.assert_close(loaded.preprocess(pixels), model.preprocess(pixels))


def test_a_third_preprocessing_is_a_few_lines(model, tmp_path, monkeypatch) -> None:
    class Scaled(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images / 255

    model.preprocess = Scaled()
    with pytest.raises(CheckpointError, match="PREPROCESSINGS"):
        model.save(tmp_path / "scaled.safetensors")
    monkeypatch.setitem(PREPROCESSINGS, "scaled", Scaled)
    model.preprocess = get_preprocessing("scaled")
    model.save(tmp_path / "scaled.safetensors")
    loaded = load(tmp_path / "scaled.safetensors")
    assert float(loaded.preprocess(torch.full((1, 3, 32, 32), 255)).max()) == 1
    monkeypatch.delitem(PREPROCESSINGS, "scaled")
    with pytest.raises(CheckpointError, match="no preprocessing is called 'scaled'"):
        load(tmp_path / "scaled.safetensors")


@pytest.mark.parametrize(
    "classes", [iter("abc"), {"a": 0, "b": 1, "c": 2}, np.array(["a", "b", "c"])], ids=type
)
def test_class_names_come_from_anything_that_lists_them(model, tmp_path, classes) -> None:
    model.weights = None
    model.save(tmp_path / "x.safetensors", classes=classes)
    assert load(tmp_path / "x.safetensors").weights.classes == ("a", "b", "c")


def test_a_path_may_begin_with_the_home_folder(model, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    model.save("~/x.safetensors")
    assert claims(load("~/x.safetensors")) == CLAIMS


def test_pytorchs_default_type_and_device_do_not_matter(model, tmp_path) -> None:
    model.preprocess.mean.add_(1)  # statistics of its own are the harder case
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):  # stands for a GPU: what is made there does not mix
            model.save(tmp_path / "x.safetensors", tag="mine")
            assert load(tmp_path / "x.safetensors").weights.tag == "mine"
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    "code", [None, torch.zeros(2), torch.tensor([torch.nan, 1, 1]), torch.tensor([99.0, 1, 1])]
)
def test_a_damaged_code_in_a_state_dict_is_named(model, code) -> None:
    with pytest.raises(ArchitectureError, match=r"_extra_state.*damaged"):
        model.load_state_dict({"_extra_state": code}, strict=False)


@pytest.mark.parametrize("name", ["a\nb", "\x1b[2J", "a\u202eb", "\u2028", "\ud800", 5])
def test_names_are_text_of_one_line(name) -> None:
    for fields in ({"tag": name}, {"classes": ("a", "b", name)}, {"preprocessing": name}):
        with pytest.raises(CheckpointError, match="not text of one line"):
            dataclasses.replace(Metadata("t", SMALL, ("a", "b", "c")), **fields)
