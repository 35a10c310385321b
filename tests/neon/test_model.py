"""The typed view shows what a neon file says, and refuses what makes no sense."""

import collections
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from allcnn_zoo.errors import NeonError
from allcnn_zoo.neon import parse_model, read_model, read_model_bytes, rescue, to_module

from .trees import same
from .writer import early_neon_file, neon_file, python2_pickle, python3_pickle


def test_header() -> None:
    model = parse_model(neon_file(version="1.4.0", compat_mode="caffe"))
    assert model.version == "1.4.0"
    assert model.backend == "NervanaGPU"
    assert model.compat_mode == "caffe"
    assert model.epoch == 350
    assert model.input_shape == (3, 32, 32)
    assert model.root is not None
    assert model.root.type == "neon.layers.container.Sequential"
    assert model.optimizer is not None
    assert model.optimizer.kind == "GradientDescentMomentum"
    assert model.cost is not None
    assert model.cost.component("costfunc").type == "neon.transforms.cost.X"


def test_layers_have_kinds_parameters_and_states() -> None:
    layer = parse_model(neon_file(widths=(4, 6))).layers[1]
    assert layer.type == "neon.layers.layer.Convolution"
    assert layer.kind == "Convolution"
    assert layer.params["W"].shape == (27, 4)
    assert len(layer.states) == 1


def test_a_setting_that_the_file_leaves_out_has_neons_default() -> None:
    layers = parse_model(neon_file("batch_norm")).layers
    dropouts = [layer.option("keep") for layer in layers if layer.kind == "Dropout"]
    assert dropouts == [0.8, 0.5, 0.5]
    norm = next(layer for layer in layers if layer.kind == "BatchNorm")
    assert norm.option("eps") == 1e-3
    assert norm.option("no such setting") is None
    assert layers[1].option("strides") == 1
    assert layers[-1].component("transform").option("axis") == 0


def test_containers_nest() -> None:
    tree = neon_file()
    inner = tree["model"]["config"]["layers"]
    tree["model"]["config"]["layers"] = [
        {"type": "neon.layers.container.MergeSum", "container": True, "config": {"layers": inner}}
    ]
    (merge,) = parse_model(tree).layers
    assert merge.kind == "MergeSum"
    assert len(merge.layers) == 23
    assert "layers" not in merge.config


def test_files_of_1_1_5_list_parameters_only() -> None:
    model = parse_model(early_neon_file("batch_norm"))
    assert model.version is None
    assert model.epoch == 350
    assert [layer.kind for layer in model.layers[:3]] == ["Convolution", "BatchNorm", "Convolution"]
    assert model.layers[1].option("eps") == 1e-6
    assert set(model.layers[1].params) == {"beta", "gamma", "gmean", "gvar"}


def test_parts_that_older_releases_leave_out_may_be_missing() -> None:
    tree = neon_file()
    for key in ("train_input_shape", "optimizer", "cost", "epoch_index"):
        del tree[key]
    model = parse_model(tree)
    assert model.input_shape is None
    assert model.optimizer is None
    assert model.cost is None
    assert model.epoch is None


Change = Callable[[Any], None]


def _in_all_layers(change: Change) -> Change:
    def change_all(tree: Any) -> None:
        for layer in tree["model"]["config"]["layers"]:
            change(layer)

    return change_all


def _as_float16(layer: Any) -> None:
    layer["params"] = {name: w.astype("f2") for name, w in layer.get("params", {}).items()}


# Written by neon with `-d f16`, by Nervana's caffe2neon, for SSD, or by hand.
HARMLESS: dict[str, Change] = {
    "no version": lambda tree: tree.pop("neon_version"),
    "no backend": lambda tree: tree.update(backend=None),
    "an epoch of numpy's": lambda tree: tree.update(epoch_index=np.int64(350)),
    "an epoch that is a float": lambda tree: tree.update(epoch_index=np.float32(350)),
    "an epoch in an array": lambda tree: tree.update(epoch_index=np.array(350)),
    "no states": _in_all_layers(lambda layer: layer.update(states=None)),
    "states in tuples": _in_all_layers(lambda layer: layer.update(states=((), ()))),
    "no parameters": lambda tree: tree["model"]["config"]["layers"][0].update(params=None),
    "an array in two places": lambda tree: tree["model"]["config"]["layers"][1].update(
        states=[tree["model"]["config"]["layers"][1]["params"]["W"]]
    ),
    "a state without elements": lambda tree: tree["model"]["config"]["layers"][1].update(
        states=[np.zeros((0, 2), "f4")]
    ),
    "layers in a tuple": lambda tree: tree["model"]["config"].update(
        layers=tuple(tree["model"]["config"]["layers"])
    ),
    "strides in a tuple": lambda tree: tree["model"]["config"]["layers"][5]["config"].update(
        strides=(2, 2), padding=[1, 1]
    ),
    "sizes of numpy's": lambda tree: tree["model"]["config"]["layers"][5]["config"].update(
        strides=np.int64(2), fshape=tuple(np.array([3, 3, 2]))
    ),
    "ordered dicts": lambda tree: tree.update(model=collections.OrderedDict(tree["model"])),
    "float16": _in_all_layers(_as_float16),
}


@pytest.mark.parametrize("kind", HARMLESS)
@pytest.mark.parametrize("protocol", [0, 2])
def test_harmless_files_are_read(kind: str, protocol: int) -> None:
    expected, changed = neon_file(), neon_file()
    if kind == "float16":
        _in_all_layers(_as_float16)(expected)
    HARMLESS[kind](changed)
    model = read_model_bytes(python3_pickle(changed, protocol))
    assert model.epoch == 350
    found, wanted = rescue(model), rescue(parse_model(expected))
    assert found.description["not_understood"] == []
    assert same(dict(found.arrays), dict(wanted.arrays))


def test_what_caffe2neon_wrote_runs(shared: Path) -> None:
    path = shared / "findings" / "inputs" / "caffe2neon_cifar10_quick.prm"
    assert to_module(path)(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_a_class_of_neon_in_a_config_is_its_name(shared: Path) -> None:
    model = read_model(shared / "findings" / "inputs" / "neon230_py2_skipthought.p")
    assert "neon.layers.recurrent.GRU" in str(rescue(model).description)


@pytest.mark.parametrize("shape", [7, (3, 32, 32), [3, 32, 32], ((3, 8), (4, 8))])
def test_input_shapes_come_back_as_integers_or_tuples(shape: Any) -> None:
    tree = neon_file() | {"train_input_shape": shape}
    expected = tuple(shape) if isinstance(shape, list) else shape
    assert parse_model(tree).input_shape == expected


def test_a_model_is_read_from_a_file_or_from_bytes(tmp_path: Path) -> None:
    data = python2_pickle(neon_file())
    path = tmp_path / "model.p"
    path.write_bytes(data)
    assert len(read_model(path).layers) == len(read_model_bytes(data).layers) == 23


def _set(*keys: Any, to: Any) -> Change:
    def change(tree: Any) -> None:
        for key in keys[:-1]:
            tree = tree[key]
        tree[keys[-1]] = to

    return change


_LAYER = ("model", "config", "layers", 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("backend", to=[]), "backend is a list of 0, not a dict"),
        (_set("neon_version", to="2.3.0\n\x1b[2J"), "neon_version is '2.3.0.*, not a plain name"),
        (_set("epoch_index", to=1.5), "epoch_index is 1.5, not an integer"),
        (_set("train_input_shape", to="wide"), "train_input_shape is 'wide', not a shape"),
        (_set("optimizer", to=3), "optimizer is 3, not a dict"),
        (_set("model", to=None), "model is None, not a dict"),
        (_set("model", "config", "layers", to={}), r"model.layers is a dict of 0, not a list"),
        (_set(*_LAYER, to="conv"), r"model.layers\[1\] is 'conv', not a dict"),
        (_set(*_LAYER, "type", to=None), r"layers\[1\].type is None, not a plain name"),
        (_set(*_LAYER, "type", to="a" * 5000), r"layers\[1\].type is 'a{60}'... \(5000 long\)"),
        (_set(*_LAYER, "config", to=[1]), r"layers\[1\].config is a list of 1, not a dict"),
        (_set(*_LAYER, "config", 5, to=1), r"layers\[1\].config is .*, not a dict with text"),
        (_set(*_LAYER, "params", "W", to=[0.5]), r"params.'W' is a list of 1, not an array"),
        (_set(*_LAYER, "states", to=[1]), r"layers\[1\].states is 1, not a list"),
    ],
)
def test_a_field_of_the_wrong_kind_is_named(change: Change, message: str) -> None:
    tree = neon_file()
    change(tree)
    with pytest.raises(NeonError, match=message):
        parse_model(tree)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ([1, 2], "holds a list of 2, not a dict"),
        ({"data": 1, "labels": 2}, r"no 'model' among its keys \('data', 'labels'\)"),
        ({}, r"no 'model' among its keys \(none\)"),
        ({"layer_params_states": 1}, "layer_params_states is 1, not a list"),
        ({"layer_params_states": [{}]}, r"layer_params_states\[0\].params is None, not a dict"),
        ({"layer_params_states": [{"params": []}]}, "params is a list of 0, not four arrays"),
    ],
)
def test_pickles_of_something_else_are_told_apart(tree: Any, message: str) -> None:
    with pytest.raises(NeonError, match=message):
        parse_model(tree)


def test_an_argument_that_is_no_object_is_named() -> None:
    tree = neon_file()
    tree["model"]["config"]["layers"][2]["config"]["transform"] = "relu"
    with pytest.raises(NeonError, match=r"the transform of neon.layers.layer.Activation is 'relu'"):
        parse_model(tree).layers[2].component("transform")
