"""The typed view shows what a neon file says, and refuses what makes no sense."""

import collections
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from allcnn_zoo.errors import NeonError
from allcnn_zoo.neon import parse_model, read_model, rescue, to_module

from .trees import same
from .writer import early_neon_file, layer_container, neon_file, network_file, python3_pickle


def test_the_view_has_what_the_file_says() -> None:
    tree = neon_file(version="1.4.0", compat_mode="caffe", widths=(4, 6))
    model = parse_model(tree)
    assert (model.version, model.backend, model.compat_mode) == ("1.4.0", "NervanaGPU", "caffe")
    assert (model.epoch, model.input_shape, model.has_network) == (350, (3, 32, 32), True)
    assert model.root.type == "neon.layers.container.Sequential"
    assert model.optimizer is not None
    assert model.optimizer.kind == "GradientDescentMomentum"
    assert model.cost is not None
    assert model.cost.component("costfunc").type == "neon.transforms.cost.X"
    layer = model.layers[1]
    assert (layer.type, layer.kind) == ("neon.layers.layer.Convolution", "Convolution")
    assert layer.params["W"].shape == (27, 4)
    assert len(layer.states) == 1
    for key in ("train_input_shape", "optimizer", "cost", "epoch_index"):  # as before 1.2.2
        del tree[key]
    model = parse_model(tree)
    assert model.input_shape is model.optimizer is model.cost is model.epoch is None


def test_containers_nest() -> None:
    layers = neon_file()["model"]["config"]["layers"]
    (merge,) = parse_model(network_file(layer_container("MergeSum", *layers, name="x"))).layers
    assert merge.kind == "MergeSum"
    assert len(merge.layers) == 23
    assert merge.config == {"name": "x"}


def test_files_of_1_1_5_list_parameters_only() -> None:
    model = parse_model(early_neon_file("batch_norm"))
    assert (model.version, model.epoch, model.has_network) == (None, 350, False)
    assert [layer.kind for layer in model.layers[:3]] == ["Convolution", "BatchNorm", "Convolution"]
    assert model.layers[1].config["eps"] == 1e-6
    assert set(model.layers[1].params) == {"beta", "gamma", "gmean", "gvar"}


Change = Callable[[Any], None]


def _set(*keys: Any, to: Any) -> Change:
    def change(tree: Any) -> None:
        for key in keys[:-1]:
            tree = tree[key]
        tree[keys[-1]] = to

    return change


_LAYERS = ("model", "config", "layers")
_LAYER = (*_LAYERS, 1)


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
    "no backend": _set("backend", to=None),
    "an epoch of numpy's": _set("epoch_index", to=np.int64(350)),
    "an epoch that is a float": _set("epoch_index", to=np.float32(350)),
    "an epoch in an array": _set("epoch_index", to=np.array(350)),
    "no states": _in_all_layers(_set("states", to=None)),
    "states in tuples": _in_all_layers(_set("states", to=((), ()))),
    "no parameters": _set(*_LAYERS, 0, "params", to=None),
    "an array in two places": _in_all_layers(
        lambda layer: layer.update(states=[*layer.get("params", {}).values()])
    ),
    "a state without elements": _set(*_LAYER, "states", to=[np.zeros((0, 2), "f4")]),
    "layers in a tuple": _set(*_LAYERS, to=tuple(neon_file()["model"]["config"]["layers"])),
    "strides in a tuple": _set(*_LAYERS, 5, "config", "strides", to=(2, 2)),
    "padding in a list": _set(*_LAYERS, 5, "config", "padding", to=[1, 1]),
    "a size of numpy's": _set(*_LAYERS, 5, "config", "strides", to=np.int64(2)),
    "sizes of numpy's": _set(*_LAYERS, 5, "config", "fshape", to=tuple(np.array([3, 3, 2]))),
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
    model = read_model(python3_pickle(changed, protocol))
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
