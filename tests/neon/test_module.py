"""A rebuilt network computes what neon computes; what cannot be rebuilt is named."""

import copy
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from allcnn_zoo import rescue_neon
from allcnn_zoo.errors import CheckpointError, NeonError
from allcnn_zoo.neon import (
    RescuedNetwork,
    load_rescued,
    parse_model,
    rescue,
    save_rescued,
    to_module,
)

from .writer import (
    component,
    early_neon_file,
    layer_container,
    layer_record,
    neon_file,
    network_file,
    python2_pickle,
)

RANDOM = np.random.default_rng(0)


def values(*shape: int) -> np.ndarray:
    return RANDOM.normal(0, 0.5, shape).astype(np.float32)


def module(*layers: dict[str, Any], **options: Any) -> nn.Module:
    """The network of a model and, the same, of the file that a rescue writes of it."""
    model = parse_model(network_file(*layers, **options))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rescued.safetensors"
        save_rescued(path, rescue(model, states=True))
        rebuilt = to_module(path)
    direct = to_module(model)
    assert str(rebuilt) == str(direct)
    assert direct.state_dict().keys() == rebuilt.state_dict().keys()
    assert all(
        torch.equal(value, rebuilt.state_dict()[name])
        for name, value in direct.state_dict().items()
    )
    return rebuilt


def function(name: str, **config: Any) -> dict[str, Any]:
    return component(f"transforms.activation.{name}", **config)


def images(*shape: int) -> Tensor:
    return torch.from_numpy(values(*shape))


def same(found: Tensor, expected: Tensor | np.ndarray) -> None:
    torch.testing.assert_close(found.detach(), torch.as_tensor(expected), rtol=1e-5, atol=1e-6)


# Layers, against the plainest formula for what neon does.


def test_convolution_and_deconvolution() -> None:
    weight, bias, back = values(3 * 2 * 3, 4), values(4, 1), values(5 * 2 * 2, 4)
    network = module(
        layer_record(
            "Convolution_bias",
            {"W": weight, "weight_bias": bias},
            fshape=(2, 3, 4),
            strides={"str_h": 1, "str_w": 2},
            padding=1,
            dilation={"dil_h": 2},
        ),
        layer_record("Deconvolution", {"W": back}, fshape=(2, 2, 5), strides=2),
    )
    x = images(2, 3, 6, 7)
    kernel = torch.from_numpy(weight.reshape(3, 2, 3, 4).transpose(3, 0, 1, 2).copy())
    hidden = F.conv2d(x, kernel, torch.from_numpy(bias[:, 0]), (1, 2), 1, (2, 1))
    kernel = torch.from_numpy(back.reshape(5, 2, 2, 4).transpose(3, 0, 1, 2).copy())
    same(network(x), F.conv_transpose2d(hidden, kernel, stride=2))


def test_convolution_of_volumes() -> None:
    weight = values(2 * 2 * 3 * 3, 4)
    network = module(
        layer_record("Convolution", {"W": weight}, fshape=(2, 3, 3, 4), padding=1),
        layer_record("Bias", {"W": values(4, 1)}),
        layer_record("Pooling", fshape=2),
        layer_record("Pooling", fshape=(2, 1, 1), op="avg"),
    )
    assert network(images(2, 2, 5, 6, 6)).shape == (2, 4, 2, 3, 3)


def test_affine_layers_flatten_images_and_take_each_step_of_a_sequence() -> None:
    weight, bias = values(3, 8), values(3, 1)
    network = module(layer_record("Linear", {"W": weight}), layer_record("Bias", {"W": bias}))
    x = images(5, 2, 2, 2)
    expected = x.numpy().reshape(5, 8) @ weight.T + bias[:, 0]
    same(network(x), expected)
    same(network(x.flatten(1)), expected)
    sequence = images(5, 8, 4)
    steps = [sequence[:, :, t].numpy() @ weight.T + bias[:, 0] for t in range(4)]
    same(network(sequence), np.stack(steps, 1))


@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 5), (6, 4, 3, 2), (6, 4, 2, 2, 2)])
def test_batch_norm_and_bias_of_each_feature(shape) -> None:
    names = ("beta", "gamma", "gmean")
    params = {name: values(4, 1) for name in names} | {"gvar": values(4, 1) ** 2}
    network = module(
        layer_record("BatchNorm", params, eps=0.01), layer_record("Bias", {"W": params["beta"]})
    )
    x = images(*shape)
    beta, gamma, mean, variance = (
        params[name].reshape(4, *[1] * (len(shape) - 2)) for name in (*names, "gvar")
    )
    expected = (x.numpy() - mean) / np.sqrt(variance + 0.01) * gamma + beta + beta
    same(network(x), expected.transpose(0, 2, 1) if len(shape) == 3 else expected)


@pytest.mark.parametrize(
    ("transform", "formula"),
    [
        (function("Rectlin"), lambda x: np.maximum(x, 0)),
        (function("Rectlin", slope=0.1), lambda x: np.maximum(x, 0) + 0.1 * np.minimum(x, 0)),
        (function("Rectlinclip", xcut=0.3), lambda x: np.clip(x, 0, 0.3)),
        (function("Explin", alpha=0.5), lambda x: np.where(x > 0, x, 0.5 * np.expm1(x))),
        (function("Tanh"), np.tanh),
        (function("Logistic", shortcut=True), lambda x: 1 / (1 + np.exp(-x))),
        (function("Identity"), lambda x: x),
        (function("Normalizer"), lambda x: x / 128),
        (function("Softmax"), lambda x: np.exp(x) / np.exp(x).sum((1, 2, 3), keepdims=True)),
        (function("PixelwiseSoftmax", c=3), lambda x: np.exp(x) / np.exp(x).sum(1, keepdims=True)),
    ],
    ids=lambda case: case["type"].rpartition(".")[2] if isinstance(case, dict) else "",
)
def test_activation_functions(transform, formula) -> None:
    x = images(4, 3, 2, 2)
    same(module(layer_record("Activation", transform=transform))(x), formula(x.numpy()))


def test_softmax_is_over_the_features_of_each_step() -> None:
    x = images(2, 5, 3)
    network = module(layer_record("Activation", transform=function("Softmax")))
    same(network(x), x.transpose(1, 2).softmax(-1))


def test_dropout_scales_at_inference_in_neons_mode_and_in_training_in_caffes() -> None:
    layer, x = layer_record("Dropout", keep=0.8), torch.ones(1, 1000)
    neon, caffe = module(layer), module(layer, compat_mode="caffe")
    same(neon(x), 0.8 * x)
    same(caffe(x), x)
    assert neon.train()(x).unique().tolist() == pytest.approx([0, 1])
    assert caffe.train()(x).unique().tolist() == pytest.approx([0, 1.25])


def test_local_response_normalization_is_across_channels() -> None:
    x = images(2, 6, 2, 2)
    network = module(layer_record("LRN", depth=5, ascale=0.5, bpower=0.75))
    squares = np.pad(x.numpy() ** 2, ((0, 0), (2, 2), (0, 0), (0, 0)))
    sums = sum(squares[:, start : start + 6] for start in range(5))
    same(network(x), x.numpy() * (1 + 0.5 / 5 * sums) ** -0.75)


def pooled(x: np.ndarray, size: int, stride: int, padding: int, *, ceil: bool) -> dict[str, Any]:
    """Maxima and means over what of each window is inside the image, in one dimension."""
    count = (len(x) - size + 2 * padding + (stride - 1 if ceil else 0)) // stride + 1
    if ceil and padding and (count - 1) * stride >= len(x) + padding:
        count -= 1
    starts = [index * stride - padding for index in range(count)]
    windows = [x[max(start, 0) : start + size] for start in starts]
    return {"max": [max(w) for w in windows], "avg": [sum(w) / len(w) for w in windows]}


WINDOWS = [(3, 2, 0), (3, 2, 1), (2, 2, 1), (3, 1, 1)]  # size, stride, padding


@pytest.mark.parametrize("operation", ["max", "avg"])
@pytest.mark.parametrize(
    ("mode", "size", "stride", "padding"),
    [
        *((mode, *window) for mode in ("neon", "caffe") for window in WINDOWS),
        ("neon", 2, 3, 1),  # refused in Caffe's mode: see below
    ],
)
@pytest.mark.parametrize("length", [6, 7, 8])
def test_pooling_sizes_and_means_are_neons(length, size, stride, padding, mode, operation) -> None:
    network = module(
        layer_record(
            "Pooling",
            fshape=(1, size),
            op=operation,
            strides={"str_w": stride},
            padding={"pad_w": padding},
        ),
        compat_mode=mode,
    )
    x = images(1, 1, 1, length)
    expected = pooled(x.flatten().numpy(), size, stride, padding, ceil=mode == "caffe")
    same(network(x).flatten(), np.array(expected[operation], np.float32))


def test_pooling_over_the_whole_image() -> None:
    x = images(2, 3, 4, 5)
    mean = module(layer_record("Pooling", fshape="all", op="avg"))
    same(mean(x), x.mean((2, 3), keepdim=True))
    same(module(layer_record("Pooling", fshape="all"))(x), x.amax((2, 3), keepdim=True))


# Sequences. neon computes on columns; these are its own equations.


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def run_recurrent(
    kind: str, x: np.ndarray, weights: tuple[np.ndarray, ...], units: int
) -> np.ndarray:
    """Outputs (units, time) of inputs (features, time), with weights as neon slices them."""
    weight_input, weight_state, bias = weights
    h = c = np.zeros((units, 1), np.float32)
    outputs = []
    for step in x.T[:, :, None]:
        a = weight_input @ step + bias
        if kind == "GRU":
            u = weight_state
            r = sigmoid(a[:units] + u[:units] @ h)
            z = sigmoid(a[units : 2 * units] + u[units : 2 * units] @ h)
            h = (1 - z) * h + z * np.tanh(a[2 * units :] + u[2 * units :] @ (r * h))
        elif kind == "LSTM":
            i, f, o, g = np.split(a + weight_state @ h, 4)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
        else:
            h = np.tanh(a + weight_state @ h)
        outputs.append(h)
    return np.concatenate(outputs, 1)


def recurrent_layer(kind: str, weight: np.ndarray, **config: Any) -> dict[str, Any]:
    gate = {"gate_activation": function("Logistic")} if kind[-2:] in ("RU", "TM") else {}
    return layer_record(kind, {"W": weight}, activation=function("Tanh"), **gate, **config)


@pytest.mark.parametrize(("features", "units"), [(5, 3), (1, 2), (5, 1), (1, 1)])
@pytest.mark.parametrize(("kind", "gates"), [("Recurrent", 1), ("GRU", 3), ("LSTM", 4)])
def test_recurrent_layers(kind, gates, features, units) -> None:
    weight = values(features + units + 1, gates * units)
    weights = (
        weight[:features].reshape(gates * units, features),
        weight[features:-1].reshape(gates * units, units),
        weight[-1:].reshape(gates * units, 1),
    )
    x = images(2, features, 4)
    expected = [run_recurrent(kind, each, weights, units).T for each in x.numpy()]
    network = module(recurrent_layer(kind, weight, output_size=units))
    same(network(x), np.stack(expected))
    if kind != "GRU":  # neon's is another
        pytorchs = (nn.LSTM if kind == "LSTM" else nn.RNN)(features, units, batch_first=True)
        ours = {name.rpartition(".")[2]: array for name, array in network.state_dict().items()}
        names = {"weight_ih_l0": "weight_ih", "weight_hh_l0": "weight_hh", "bias_ih_l0": "bias"}
        state = {theirs: ours[name] for theirs, name in names.items()}
        pytorchs.load_state_dict(state | {"bias_hh_l0": torch.zeros(gates * units)})
        same(pytorchs(x.transpose(1, 2))[0], network(x))


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize(("kind", "gates"), [("BiRNN", 1), ("BiLSTM", 4)])
def test_bidirectional_layers(kind, gates, split) -> None:
    features, units, rows = 4, 3, 3 * gates
    seen = features // 2 if split else features
    weight = values(2 * (seen + units + 1), rows)
    blocks = np.split(weight, np.cumsum([seen, seen, units, units, 1]))
    ahead, back = (
        tuple(block.reshape(rows, -1) for block in blocks[direction::2]) for direction in (0, 1)
    )
    x = images(2, features, 5)
    expected = []
    for each in x.numpy():
        first, second = (each[:seen], each[-seen:]) if split else (each, each)
        direct = run_recurrent(kind[2:], first, ahead, units)
        reverse = run_recurrent(kind[2:], second[:, ::-1], back, units)[:, ::-1]
        expected.append(np.concatenate([direct, reverse]).T)
    layer = recurrent_layer(kind, weight, split_inputs=split)
    same(module(layer)(x), np.stack(expected))
    summed = np.stack(expected)[..., :units] + np.stack(expected)[..., units:]
    same(module(layer, layer_record("BiSum"))(x), summed)


def test_an_image_is_a_sequence_of_its_columns_to_a_recurrent_layer() -> None:
    weight = values(6 + 2 + 1, 2)
    network, x = module(recurrent_layer("Recurrent", weight)), images(2, 3, 2, 5)
    same(network(x), network(x.flatten(1, 2)))


@pytest.mark.parametrize(
    ("kind", "reduce"),
    [
        ("RecurrentSum", lambda x: x.sum(1)),
        ("RecurrentMean", lambda x: x.mean(1)),
        ("RecurrentLast", lambda x: x[:, -1]),
    ],
)
def test_words_are_looked_up_and_their_sequence_reduced(kind, reduce) -> None:
    table = values(10, 3)
    network = module(
        layer_record("LookupTable", {"W": table}, pad_idx=0), layer_record(kind, name=kind)
    )
    words = np.array([[1, 2, 9], [0, 0, 4]])
    expected = reduce(table[words])
    same(network(torch.from_numpy(words)), expected)
    same(network(torch.from_numpy(words.astype(np.float32))), expected)


# Containers.


def sequential(*layers: dict[str, Any]) -> dict[str, Any]:
    return layer_container("Sequential", *layers)


def dense(weight: np.ndarray) -> dict[str, Any]:
    return layer_record("Linear", {"W": weight}, nout=len(weight))


def test_a_residual_block_adds_its_branches() -> None:
    weight = values(4, 4)
    block = layer_container(
        "MergeSum", sequential(layer_record("SkipNode")), sequential(dense(weight))
    )
    x = images(3, 4)
    same(module(block)(x), x.numpy() + x.numpy() @ weight.T)


@pytest.mark.parametrize(
    ("merge", "shape", "joined"),
    [
        ("depth", (2, 3, 4, 4), (2, 6, 4, 4)),
        ("stack", (2, 3, 4, 4), (2, 96)),
        ("depth", (2, 5, 7), (2, 7, 10)),
        ("recurrent", (2, 5, 7), (2, 14, 5)),
    ],
)
def test_branches_are_joined_in_depth_in_time_or_flat(merge, shape, joined) -> None:
    skip = sequential(layer_record("SkipNode"))
    network = module(skip, skip, container="MergeBroadcast", merge=merge)
    assert network(images(*shape)).shape == joined


def test_several_inputs_go_each_to_its_branch() -> None:
    one, other = values(2, 3), values(2, 4)
    streams = layer_container(
        "MergeMultistream", sequential(dense(one)), sequential(dense(other)), merge="stack"
    )
    x, y = images(5, 3), images(5, 4)
    expected = np.concatenate([x.numpy() @ one.T, y.numpy() @ other.T], 1)
    same(module(streams)([x, y]), expected)


def test_only_the_trunk_of_a_tree_is_evaluated() -> None:
    branch_node = layer_record("BranchNode", name="tap")
    trunk, branch = values(4, 4), values(2, 4)
    network = module(
        sequential(dense(trunk), branch_node, dense(trunk)),
        sequential(branch_node, dense(branch)),
        container="SingleOutputTree",
    )
    x = images(3, 4)
    same(network(x), x.numpy() @ trunk.T @ trunk.T)
    assert "layers.1_Sequential.1_Linear.weight" in network.state_dict()


# The module as a PyTorch user meets it.


def test_the_state_dict_has_the_names_of_the_rescued_arrays() -> None:
    model = parse_model(neon_file("batch_norm"))
    network, arrays = to_module(model), rescue(model).arrays
    state = {name: torch.tensor(array) for name, array in arrays.items()}
    network.load_state_dict(state)
    assert network.state_dict().keys() >= arrays.keys()
    assert not network.training
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_a_module_can_be_copied_saved_and_moved() -> None:
    network = module(
        layer_record("LookupTable", {"W": values(10, 3)}),
        recurrent_layer("GRU", values(3 + 2 + 1, 6)),
        layer_record("RecurrentMean"),
        layer_record("Activation", transform=function("Rectlinclip")),
    )
    file = io.BytesIO()
    torch.save(network, file)
    file.seek(0)
    words = torch.tensor([[1, 2, 3]])
    same(torch.load(file, weights_only=False)(words), network(words))
    assert copy.deepcopy(network).double()(words).dtype == torch.float64


def test_a_path_is_read_first(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    path, new = tmp_path / "old.p", tmp_path / "new.SAFETENSORS"
    path.write_bytes(python2_pickle(neon_file()))
    x = images(1, 3, 32, 32)
    expected = to_module(path)(x)
    assert expected.shape == (1, 16, 1, 1)
    rescue_neon(path, new)
    rescued = load_rescued(new)
    for source in (new, "~/new.SAFETENSORS", rescued, rescue(parse_model(neon_file()))):
        assert torch.equal(to_module(source)(x), expected)
    # Another program may store the same arrays in another order, or at half precision.
    halved = {name: rescued.arrays[name].astype(np.float16) for name in reversed(rescued.arrays)}
    save_rescued(new, RescuedNetwork(rescued.description, halved))
    torch.testing.assert_close(to_module(new)(x), expected, rtol=0.01, atol=0.01)


@pytest.mark.parametrize(
    "change",
    [
        lambda layer: layer["settings"].update(in_channels="many"),
        lambda layer: layer["settings"].update(kernel=[]),
        lambda layer: layer["settings"].update(surprise=1),
        lambda layer: layer.update(settings={}),
        lambda layer: layer.update(settings=None),
        lambda layer: layer.update(type="os.system"),
        lambda layer: layer.update(arrays={}),
    ],
)
def test_a_description_that_lies_is_refused(tmp_path, change) -> None:
    network = rescue(parse_model(neon_file()))
    description = json.loads(json.dumps(network.description))
    change(description["layers"][1])
    save_rescued(tmp_path / "x.safetensors", RescuedNetwork(description, network.arrays))
    with pytest.raises(NeonError, match=r"1 of the layers: layers\.1_Convolution"):
        to_module(tmp_path / "x.safetensors")


def test_weights_of_ours_are_no_rescued_network(tmp_path) -> None:
    safetensors.numpy.save_file({"a": values(1)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="no neon_network header"):
        to_module(tmp_path / "x.safetensors")


# What cannot be rebuilt.


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (layer_record("Capsule"), "Capsule is not known"),
        (layer_record("Linear"), "does not hold its parameters"),
        (
            layer_record("Convolution_bias", {"W": values(1, 2)}, fshape=(1, 1, 2)),
            "does not hold all of its parameters",
        ),
        (layer_record("Activation", transform=function("Softmax", axis=1)), "softmax over axis 1"),
        (layer_record("Activation", transform=function("Swish")), r"activation\.Swish"),
        (layer_record("Pooling", fshape=2, padding=2), "padding of 2"),
        (layer_record("Pooling", fshape=2, op="l2"), "its op is 'l2'"),
        (layer_record("Convolution", {"W": values(1, 2)}, fshape=(1, 1, 2), groups=2), "'groups'"),
        (layer_container("MergeSum"), "nothing in it"),
        (layer_container("Tree", sequential()), "container.Tree is not known"),
    ],
)
def test_every_layer_that_cannot_be_rebuilt_is_named_with_the_reason(layer, reason) -> None:
    kind = layer["type"].rpartition(".")[2]
    skip = layer_record("SkipNode")
    with pytest.raises(NeonError, match=rf"layers\.1_{kind}(\.0_Sequential)?: .*{reason}"):
        module(skip, layer)


def test_the_message_about_them_is_bounded() -> None:
    with pytest.raises(NeonError, match=r"for 5000 of the layers: .*; and 4990 more\.") as caught:
        module(*[layer_record("Capsule") for _ in range(5000)])
    assert len(str(caught.value)) < 1000


def test_windows_that_caffe_puts_outside_the_image_are_refused() -> None:
    with pytest.raises(NeonError, match="outside the image"):
        module(layer_record("Pooling", fshape=1, strides=2), compat_mode="caffe")


def test_a_file_without_its_network_is_refused() -> None:
    with pytest.raises(NeonError, match="no network to rebuild"):
        to_module(parse_model(early_neon_file()))
