"""Every array of any neon file comes out, named by its place, in PyTorch's layout."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allcnn_zoo.errors import NeonError
from allcnn_zoo.neon import RescuedNetwork, parse_model, read_model, rescue
from allcnn_zoo.neon.layers import LAYER_CLASSES

from .writer import (
    component,
    early_neon_file,
    layer_container,
    layer_record,
    network_file,
    python2_pickle,
)


def numbered(*shape: int) -> np.ndarray:
    """float32 values that are all different, so that no transposition goes unnoticed."""
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def rescued(*layers: dict[str, Any], states: bool = False, **options: Any) -> RescuedNetwork:
    return rescue(parse_model(network_file(*layers, **options)), states=states)


def only_layer(network: RescuedNetwork) -> dict[str, Any]:
    (layer,) = network.description["layers"]
    return layer


# Names.


def test_names_follow_the_tree_of_layers_and_not_neons_counters() -> None:
    convolution = layer_record("Convolution", {"W": numbered(3, 4)}, fshape=(1, 1, 4), name="c_77")
    bias = layer_record("Bias", {"W": numbered(4, 1)}, name="c_77_bias")
    branch = layer_container("Sequential", convolution, bias, name="Sequential_4")
    skip = layer_container("Sequential", layer_record("SkipNode"))
    network = rescued(convolution, layer_container("MergeSum", skip, branch))
    assert list(network.arrays) == [
        "layers.0_Convolution.weight",
        "layers.1_MergeSum.1_Sequential.0_Convolution.weight",
        "layers.1_MergeSum.1_Sequential.1_Bias.bias",
    ]
    assert "77" not in json.dumps(network.description)
    assert network.neon_names["layers.0_Convolution"] == "c_77"


def test_states_are_named_and_laid_out_like_their_parameter() -> None:
    layer = layer_record("Convolution_bias", {"W": numbered(6, 4), "weight_bias": numbered(4, 1)})
    layer["config"]["fshape"] = (1, 2, 4)
    layer["states"] = [[numbered(6, 4), -numbered(6, 4)], [numbered(4, 1), -numbered(4, 1)]]
    parameters, everything = rescued(layer), rescued(layer, states=True)
    assert list(parameters.arrays) == [
        "layers.0_Convolution_bias.weight",
        "layers.0_Convolution_bias.bias",
    ]
    assert everything.arrays.keys() - parameters.arrays.keys() == {
        f"states.{slot}.{name}" for slot in (0, 1) for name in parameters.arrays
    }
    for name, array in parameters.arrays.items():
        np.testing.assert_array_equal(everything.arrays[f"states.0.{name}"], array)
        np.testing.assert_array_equal(everything.arrays[f"states.1.{name}"], -array)


@pytest.mark.parametrize(
    ("states", "kept"),
    [
        ([[numbered(5)], numbered(2, 3)], ["0.0", "1"]),
        ([np.array(1, np.float32), [numbered(2, 3)]], ["0", "1.0"]),
        ([numbered(3)], ["0"]),
    ],
)
def test_states_that_match_no_parameter_are_kept_as_they_are(states, kept) -> None:
    layer = layer_record("Linear", {"W": numbered(2, 3)}, nout=2) | {"states": states}
    arrays = rescued(layer, states=True).arrays
    for path in kept:
        expected = states
        for index in path.split("."):
            expected = expected[int(index)]
        np.testing.assert_array_equal(arrays[f"states.raw.layers.0_Linear.{path}"], expected)


# Layouts.


def test_convolution() -> None:
    weight = numbered(3 * 2 * 5, 4)
    layer = layer_record("Convolution", {"W": weight}, fshape=(2, 5, 4), strides=2, padding={})
    network = rescued(layer)
    array = network.arrays["layers.0_Convolution.weight"]
    assert array.shape == (4, 3, 2, 5)
    assert array[3, 2, 1, 4] == weight[2 * 10 + 1 * 5 + 4, 3]
    assert only_layer(network)["settings"] == {
        "in_channels": 3,
        "out_channels": 4,
        "kernel": [2, 5],
        "stride": [2, 2],
        "padding": [0, 0],
        "dilation": [1, 1],
        "bias": False,
    }


def test_batch_norm() -> None:
    values = {name: numbered(3, 1) + i for i, name in enumerate(("beta", "gamma", "gmean", "gvar"))}
    network = rescued(layer_record("BatchNorm", values, rho=0.75))
    found = {name.rpartition(".")[2]: array.tolist() for name, array in network.arrays.items()}
    assert found == {
        "bias": [0, 1, 2],
        "weight": [1, 2, 3],
        "running_mean": [2, 3, 4],
        "running_var": [3, 4, 5],
    }
    assert only_layer(network)["settings"] == {"features": 3, "eps": 1e-3, "momentum": 0.25}


TANH = component("transforms.activation.Tanh")
LOGISTIC = component("transforms.activation.Logistic")


# Descriptions.


@pytest.mark.parametrize(("mode", "rounding"), [("neon", "floor"), ("caffe", "ceil")])
def test_settings_that_the_file_leaves_out_are_filled_in(mode: str, rounding: str) -> None:
    network = rescued(
        layer_record("Dropout"),
        layer_record("Pooling", fshape=3),
        layer_record("Pooling", fshape="all", op="avg"),
        layer_record("Activation", transform=component("transforms.activation.Rectlin")),
        layer_record("LRN", depth=5, ascale=0.5),
        compat_mode=mode,
    )
    window = {"kernel": [3, 3], "stride": [3, 3], "padding": [0, 0]}
    assert [layer["settings"] for layer in network.description["layers"]] == [
        {"keep": 0.5, "mode": mode},
        {"operation": "max", **window, "rounding": rounding},
        {"operation": "avg", "kernel": "all"},
        {"function": "Rectlin", "slope": 0.0},
        {"size": 5, "alpha": 0.5, "beta": 1.0, "k": 1.0},
    ]


def test_the_outermost_container_is_described_like_any_other() -> None:
    branch = layer_container("Sequential", layer_record("Linear", {"W": numbered(2, 3)}))
    network = rescued(branch, branch, container="MergeBroadcast", merge="stack")
    assert network.description["type"] == "neon.layers.container.MergeBroadcast"
    assert network.description["settings"] == {"merge": "stack"}


# What is not understood.


def test_an_unknown_layer_keeps_its_arrays_and_is_listed() -> None:
    array = numbered(2, 3, 4)
    network = rescued(layer_record("Capsule", {"W": array, "odd name\x1b": array}, routes=3))
    assert list(network.arrays) == ["layers.0_Capsule.neon.W", "layers.0_Capsule.neon.odd_name_"]
    assert network.description["not_understood"] == ["layers.0_Capsule"]
    assert only_layer(network)["config"] == {"routes": 3}
    assert "Capsule is not known" in only_layer(network)["not_understood"]


def test_an_unknown_outermost_container_does_not_hide_the_layers_below() -> None:
    inside = layer_record("Capsule", {"W": numbered(2)})
    root = {"type": "neon.layers.container.GenerativeAdversarial", "config": {"layers": [inside]}}
    network = rescue(read_model(python2_pickle({**network_file(), "model": root})))
    assert network.description["not_understood"] == ["layers", "layers.0_Capsule"]
    assert "GenerativeAdversarial is not known" in network.description["root_not_understood"]


def test_names_that_would_fill_the_memory_are_refused() -> None:
    kind = "K" * 200
    layer: dict[str, object] = {"type": kind, "config": {"layers": [{"type": kind}] * 2000}}
    for _ in range(20):
        layer = {"type": kind, "config": {"layers": [layer]}}
    tree = {**network_file(), "model": json.loads(json.dumps(layer))}
    model = read_model(python2_pickle(tree))
    with pytest.raises(NeonError, match="nested so deep that a name has 1"):
        rescue(model)
    config: object = np.zeros(2)
    for _ in range(20):
        config = {"k" * 99: config}
    deep = network_file(layer_record("Linear", settings=config))
    with pytest.raises(NeonError, match="nested so deep that its name"):
        rescue(parse_model(deep))


@pytest.mark.parametrize(
    "layer",
    [
        layer_record("Convolution", {"W": numbered(4, 4)}),
        layer_record("Convolution", {"W": numbered(4, 4)}, fshape=(1, 1, 4), strides="two"),
        layer_record("BatchNorm", {"gamma": numbered(4, 1)}, eps="small"),
        layer_record("BatchNorm", {"gamma": numbered(4, 1)}, binary=True),
        layer_record("LSTM", {"W": numbered(8, 4)}, activation=TANH),
    ],
    ids=["no kernel", "strides", "eps", "binary", "no gate"],
)
def test_a_layer_with_a_setting_that_is_not_understood_keeps_its_arrays(layer) -> None:
    network = rescued(layer)
    ((name, array),) = network.arrays.items()
    assert ".neon." in name
    np.testing.assert_array_equal(array, *layer["params"].values())
    assert len(network.description["not_understood"]) == 1


def test_an_unknown_argument_or_array_does_not_keep_the_others_from_translation() -> None:
    params = {"W": numbered(4, 3), "extra": numbered(5)}
    network = rescued(layer_record("Convolution", params, fshape=(2, 2, 3), groups=2))
    assert network.arrays["layers.0_Convolution.weight"].shape == (3, 1, 2, 2)
    assert network.arrays["layers.0_Convolution.neon.extra"].shape == (5,)
    assert "'groups' is not known" in only_layer(network)["not_understood"]


def test_arrays_among_the_constructor_arguments_are_kept_too() -> None:
    initial = component("initializers.initializer.Array", val=numbered(2, 3))
    network = rescued(layer_record("Linear", {"W": numbered(2, 3)}, init=initial))
    assert list(network.arrays) == [
        "layers.0_Linear.weight",
        "layers.0_Linear.config.init.config.val",
    ]
    assert network.description["parameters"] == 6


def test_a_file_without_its_network_is_rescued_by_position() -> None:
    tree = early_neon_file("batch_norm")
    network = rescue(parse_model(tree), states=True)
    assert network.description["has_architecture"] is False
    assert network.arrays["layers.0_Convolution.neon.W"].shape == (27, 2)
    assert network.arrays["layers.1_BatchNorm.running_var"].shape == (2,)
    assert "layers.0_Convolution" in network.description["not_understood"]
    count = sum(len(record["params"]) for record in tree["layer_params_states"])
    names = sum(1 for r in tree["layer_params_states"] if isinstance(r["params"], dict))
    assert sum(not name.startswith("states.") for name in network.arrays) == count - names


@pytest.mark.parametrize("name", ["conv0", "Layer", "\x1b[2J", 5, None])
def test_a_layer_that_the_user_named_is_of_unknown_class(name: object) -> None:
    record = {"params": {"W": numbered(3, 2)} | ({} if name is None else {"name": name})}
    network = rescue(parse_model({"layer_params_states": [record]}))
    assert list(network.arrays) == ["layers.0_Unknown.neon.W"]
    shown = {"conv0": "conv0", "Layer": "Layer", "\x1b[2J": "__2J"}.get(name)
    assert network.neon_names.get("layers.0_Unknown") == shown


# Hostile files: arrays that are not what the file says.


@pytest.mark.parametrize(
    ("kind", "shape", "config"),
    [
        ("Convolution", (28, 4), {"fshape": (3, 3, 4)}),
        ("Convolution", (27, 4), {"fshape": (3, 3, 5)}),
        ("Convolution", (27, 4), {"fshape": (60_000, 60_000, 4)}),
        ("Convolution", (27,), {"fshape": (3, 3, 4)}),
        ("Deconvolution", (27, 4), {"fshape": (3, 3, 4)}),
        ("Linear", (3, 2), {"nout": 2}),
        ("Linear", (3, 2, 1), {}),
        ("Bias", (3, 2), {}),
        ("LookupTable", (3, 2), {"vocab_size": 4}),
        ("LSTM", (8, 6), {}),
        ("LSTM", (8, 8), {"output_size": 3}),
        ("LSTM", (3, 8), {}),
        ("BiLSTM", (9, 8), {}),
    ],
)
def test_a_shape_that_contradicts_its_layer_is_refused(kind, shape, config) -> None:
    gates = {"activation": TANH, "gate_activation": LOGISTIC} if "LSTM" in kind else {}
    with pytest.raises(NeonError, match=rf"^layers\.0_{kind}: damaged: a {kind} with"):
        rescued(layer_record(kind, {"W": numbered(*shape)}, **config, **gates))


def test_nothing_is_lost_under_a_name_that_another_has() -> None:
    for layer in (
        layer_record("Capsule", {"a b": numbered(1), "a_b": numbered(1)}),
        layer_record("Linear", init={1: numbered(1), "1": numbered(1)}),
    ):
        with pytest.raises(NeonError, match="damaged: two arrays would be called layers"):
            rescued(layer)
    with pytest.raises(NeonError, match="a number and the same number as text"):
        rescued(layer_record("Capsule", routes={1: "one", "1": "one as text"}))


values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 70_000) | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.sampled_from(["str_h", "R", "type", "config", "name"]), inner)
        | st.just(numbered(2, 2))
    ),
    max_leaves=6,
)
kinds = st.sampled_from([*LAYER_CLASSES, "Capsule"])
options = st.sampled_from(
    sorted({name for each in LAYER_CLASSES.values() for name in each.options} | {"name", "init"})
)
shapes = st.lists(st.integers(1, 12), max_size=3).map(tuple)


@settings(deadline=None)
@given(kinds, st.dictionaries(options, values), st.lists(shapes, max_size=2))
def test_any_layer_is_rescued_whole_or_refused(kind, config, shapes) -> None:
    params = {
        name: numbered(*shape) for name, shape in zip(("W", "weight_bias"), shapes, strict=False)
    }
    layer = {"type": f"neon.{kind}", "config": config, "params": params}
    try:
        network = rescued(layer, states=True)
    except NeonError:
        return
    assert json.loads(json.dumps(network.description, allow_nan=False))
    names = [name for name in network.arrays if ".config." not in name]
    assert sum(network.arrays[name].size for name in names) == sum(a.size for a in params.values())
