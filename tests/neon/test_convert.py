"""A converted network computes what neon computes layer by layer."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from allcnn_zoo.errors import NeonError, NotAllCNNError
from allcnn_zoo.neon import convert_allcnn, parse_model

from .forward import logits
from .writer import Variant, early_neon_file, neon_file

VARIANTS: tuple[Variant, ...] = ("plain", "bias", "early_bias", "batch_norm")
CONVOLUTIONS = [f"features.conv{number}" for number in range(1, 9)] + ["classifier"]


def as_neon_does(tree: dict[str, Any], images: np.ndarray) -> torch.Tensor:
    """Logits by neon's rules, one layer record after the other, in float64."""
    x = torch.from_numpy(images)
    for layer in tree["model"]["config"]["layers"]:
        config = layer["config"]
        params = {
            name: torch.from_numpy(values).double()
            for name, values in layer.get("params", {}).items()
        }
        match layer["type"].rpartition(".")[2]:
            case "Dropout":
                if tree["backend"]["compat_mode"] == "neon":
                    x = x * config.get("keep", 0.5)
            case "Convolution" | "Convolution_bias":
                size, _, width = config["fshape"]
                kernel = params["W"].reshape(-1, size, size, width).permute(3, 0, 1, 2)
                x = F.conv2d(
                    x, kernel, stride=config.get("strides", 1), padding=config.get("padding", 0)
                )
                x = x + params.get("weight_bias", torch.zeros(1, 1).double())[None, :, :, None]
            case "Bias":
                x = x + params["W"][None, :, :, None]
            case "BatchNorm":
                mean, variance, gamma, beta = (
                    params[name][None, :, :, None] for name in ("gmean", "gvar", "gamma", "beta")
                )
                x = (x - mean) / (variance + 1e-3).sqrt() * gamma + beta
            case "Activation" if config["transform"]["type"].endswith("Rectlin"):
                x = x.clamp(min=0)
            case "Pooling":
                x = x.mean((2, 3))
    return x


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(2, 3, 32, 32))


@pytest.mark.parametrize("compat_mode", ["neon", "caffe"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_are_neons(variant: Variant, compat_mode: str, images: np.ndarray) -> None:
    tree = neon_file(variant, compat_mode=compat_mode)
    converted = convert_allcnn(parse_model(tree), keep_padding=True)
    expected = as_neon_does(tree, images)
    assert expected.abs().max() > 0.1
    assert torch.allclose(logits(converted, images), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_padding_outputs_are_dropped_unless_kept(variant: Variant, images: np.ndarray) -> None:
    model = parse_model(neon_file(variant))
    all_outputs = convert_allcnn(model, keep_padding=True)
    dropped = convert_allcnn(model)
    assert all_outputs.num_classes == 16
    assert dropped.num_classes == 10
    assert dropped.provenance["padding_outputs_dropped"] == 6
    assert torch.equal(logits(dropped, images), logits(all_outputs, images)[:, :10])


@pytest.mark.parametrize("outputs", [2, 10, 100])
def test_other_numbers_of_outputs_are_kept(outputs: int) -> None:
    converted = convert_allcnn(parse_model(neon_file(outputs=outputs)))
    assert converted.num_classes == outputs
    assert converted.weights["classifier.weight"].shape == (outputs, 3, 1, 1)
    assert converted.provenance["padding_outputs_dropped"] == 0


def test_weights_have_our_names_shapes_and_layout() -> None:
    converted = convert_allcnn(parse_model(neon_file(widths=(4, 5))))
    parts = [f"{name}.{part}" for name in CONVOLUTIONS for part in ("weight", "bias")]
    assert list(converted.weights) == parts
    assert converted.widths == (4, 5)
    assert (converted.last_padding, converted.final_relu) == (1, True)
    assert converted.weights["features.conv4.weight"].shape == (5, 4, 3, 3)
    for values in converted.weights.values():
        assert values.dtype == np.float32
        assert values.flags.c_contiguous
        assert values.flags.writeable
        assert values.dtype.isnative


def test_the_same_input_gives_the_same_output() -> None:
    one, other = (convert_allcnn(parse_model(neon_file("batch_norm"))) for _ in range(2))
    assert one.provenance == other.provenance
    assert all(np.array_equal(one.weights[name], other.weights[name]) for name in one.weights)


def test_big_endian_weights_are_converted_alike() -> None:
    tree = neon_file("bias")
    expected = convert_allcnn(parse_model(tree))
    for layer in tree["model"]["config"]["layers"]:
        for name, values in layer.get("params", {}).items():
            layer["params"][name] = values.astype(">f4")
    swapped = convert_allcnn(parse_model(tree))
    assert all(np.array_equal(expected.weights[n], swapped.weights[n]) for n in expected.weights)


def test_provenance_of_a_native_file_with_batch_normalisation() -> None:
    provenance = convert_allcnn(parse_model(neon_file("batch_norm", version="1.4.0"))).provenance
    assert provenance == json.loads(json.dumps(provenance))
    assert provenance == {
        "neon_version": "1.4.0",
        "backend": "NervanaGPU",
        "epoch": 350,
        "compat_mode": "neon",
        "dropout_folded": {"features.conv1": 0.8, "features.conv4": 0.5, "features.conv7": 0.5},
        "batch_norm_folded": dict.fromkeys(CONVOLUTIONS[:-1], 1e-3),
        "zero_biases": ["classifier"],
        "padding_outputs_dropped": 6,
        "assumed": [],
    }


def test_provenance_of_a_plain_file_in_caffe_mode() -> None:
    provenance = convert_allcnn(parse_model(neon_file(compat_mode="caffe"))).provenance
    assert provenance["dropout_folded"] == {}
    assert provenance["batch_norm_folded"] == {}
    assert provenance["zero_biases"] == CONVOLUTIONS


@pytest.mark.parametrize("variant", ["plain", "bias"])
def test_parameters_without_a_network_are_taken_for_all_cnn_c(
    variant: Variant, images: np.ndarray
) -> None:
    whole = convert_allcnn(parse_model(neon_file("early_bias" if variant == "bias" else variant)))
    early = convert_allcnn(parse_model(early_neon_file(variant)))
    assert torch.equal(logits(early, images), logits(whole, images))
    architecture, mode = early.provenance["assumed"]
    assert "lists parameters without their network" in architecture
    assert "does not record how dropout works" in mode


def test_early_batch_normalisation_has_a_smaller_epsilon() -> None:
    early = convert_allcnn(parse_model(early_neon_file("batch_norm")))
    assert set(early.provenance["batch_norm_folded"].values()) == {1e-6}


def test_the_dropout_mode_can_be_told_where_the_file_does_not() -> None:
    early = convert_allcnn(parse_model(early_neon_file()), dropout_mode="caffe")
    caffe = convert_allcnn(parse_model(neon_file(compat_mode="caffe")))
    assert all(np.array_equal(early.weights[n], caffe.weights[n]) for n in caffe.weights)
    assert early.provenance["dropout_folded"] == {}
    assert "'caffe', as asked for" in early.provenance["assumed"][1]


def test_the_dropout_mode_cannot_contradict_the_file() -> None:
    model = parse_model(neon_file(compat_mode="neon"))
    assert convert_allcnn(model, dropout_mode="neon").provenance["assumed"] == []
    with pytest.raises(NeonError, match="records dropout mode 'neon', which is not 'caffe'"):
        convert_allcnn(model, dropout_mode="caffe")


def test_a_mode_that_nobody_knows_is_refused() -> None:
    with pytest.raises(NeonError, match="unknown dropout mode 'torch'"):
        convert_allcnn(parse_model(neon_file(compat_mode="torch")))


# Layers in the records of the plain network, for the changes below.
DROPOUT, CONV1, RELU1, CONV3, CONV8, POOLING, SOFTMAX = 0, 1, 2, 5, 17, 21, 22


def _config(index: int, **settings: Any) -> Callable[[list[Any]], None]:
    return lambda layers: layers[index]["config"].update(settings)


def _replace(index: int, kind: str, **config: Any) -> Callable[[list[Any]], None]:
    record = {"type": f"neon.layers.{kind}", "config": config}
    return lambda layers: layers.__setitem__(index, record)


def _transform(index: int, kind: str, **config: Any) -> Callable[[list[Any]], None]:
    record = {"type": f"neon.transforms.activation.{kind}", "config": config}
    return lambda layers: layers[index]["config"].update(transform=record)


def _params(index: int, **params: Any) -> Callable[[list[Any]], None]:
    return lambda layers: layers[index]["params"].update(params)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_replace(3, "container.MergeSum"), "layer 3 is neon.layers.container.MergeSum; All-CNN-C"),
        (_replace(3, "container.MergeSum"), "has a Convolution there .this is a residual network"),
        (_replace(0, "layer.LookupTable"), "has a Dropout there .this is a recurrent network"),
        (_replace(POOLING, "layer.Linear"), "has a Pooling there .this is a convolutional network"),
        (lambda layers: layers.pop(), "ends after 22 layers; All-CNN-C has an Activation there"),
        (lambda layers: layers.clear(), "this is a network without convolutions"),
        (lambda layers: layers.append(layers[0]), "goes on with neon.layers.layer.Dropout"),
        (_config(DROPOUT, keep=0), "layer 0 is a Dropout with keep 0;"),
        (_config(DROPOUT, keep="half"), "layer 0 is a Dropout with keep 'half';"),
        (_config(CONV1, strides=2), "layer 1 is a Convolution with strides 2; .* has strides 1"),
        (_config(CONV3, strides={"str_h": 2}), r"strides {'str_h': 2}; All-CNN-C has strides 2"),
        (_config(CONV3, strides=np.ones(2)), "strides a float64 array"),
        (_config(CONV1, padding=0), "Convolution with padding 0; All-CNN-C has padding 1"),
        (_config(CONV1, dilation=2), "dilation 2; All-CNN-C has dilation 1"),
        (_config(CONV1, fshape=(5, 5, 2)), r"of shape \(5, 5, 2\); All-CNN-C has 3x3 kernels"),
        (_config(CONV1, fshape=(3, 3, 7)), r"\(3, 3, 7\); All-CNN-C has 2 outputs, as its weights"),
        (_config(CONV1, fshape=[np.ones(2), 3, 2]), "of shape"),
        (_config(CONV8, groups=4), "Convolution with the setting 'groups'"),
        (_transform(RELU1, "Tanh"), "layer 2 is a Tanh; All-CNN-C has Rectlin there"),
        (_transform(RELU1, "Rectlin", slope=0.1), "Rectlin with slope 0.1; All-CNN-C has slope 0"),
        (_transform(SOFTMAX, "Logistic"), "layer 22 is a Logistic; All-CNN-C has Softmax"),
        (_config(POOLING, op="max"), r"Pooling\(8, 'max'\); All-CNN-C has the mean over 8x8"),
        (_config(POOLING, fshape=4), r"Pooling\(4, 'avg'\)"),
        (_config(POOLING, padding=1), "Pooling with padding 1"),
        (_params(CONV1, W=np.zeros((27, 2))), "a float64 array of shape .27, 2. as W"),
        (_params(CONV1, W=np.zeros((12, 2), "f4")), r"weights of shape \(12, 2\); .* \(27, output"),
        (_params(CONV1, W=np.zeros(27, "f4")), "weights of shape"),
        (_params(CONV1, extra=np.zeros(2, "f4")), "with the parameters 'W', 'extra'"),
        (lambda layers: layers[1].pop("params"), "weights of shape None"),
    ],
)
def test_another_network_is_refused_with_the_first_difference(
    change: Callable[[list[Any]], None], message: str
) -> None:
    tree = neon_file()
    change(tree["model"]["config"]["layers"])
    with pytest.raises(NotAllCNNError, match=message):
        convert_allcnn(parse_model(tree))


@pytest.mark.parametrize(
    "change",
    [
        _config(CONV3, strides={"str_h": 2, "str_w": 2, "str_d": 1}),
        _config(CONV1, padding={"pad_h": 1, "pad_w": 1}, strides={}, dilation={"dil_h": 1}),
        _config(CONV1, fshape=[3, 3, 2], bsum=True, parallelism="Data"),
        _config(POOLING, fshape=(8, 8), strides=1),
        _config(POOLING, fshape="all"),
        _transform(RELU1, "Rectlin", slope=0.0, name="Rectlin_0"),
    ],
)
def test_other_spellings_of_the_same_network_convert(change: Callable[[list[Any]], None]) -> None:
    tree = neon_file()
    change(tree["model"]["config"]["layers"])
    assert convert_allcnn(parse_model(tree)).num_classes == 10


def test_three_widths_are_refused() -> None:
    tree, wider = neon_file(widths=(2, 3)), neon_file(widths=(2, 4))
    layers = tree["model"]["config"]["layers"]
    layers[CONV8] = wider["model"]["config"]["layers"][CONV8]
    layers[CONV8]["params"]["W"] = np.zeros((3, 4), np.float32)
    layers[CONV8 + 2]["params"]["W"] = np.zeros((4, 16), np.float32)
    with pytest.raises(NotAllCNNError, match="widths are 2, 2, 2, 3, 3, 3, 3, 4"):
        convert_allcnn(parse_model(tree))


def test_another_input_or_container_is_refused() -> None:
    with pytest.raises(NotAllCNNError, match=r"its input has shape \(1, 32, 32\)"):
        convert_allcnn(parse_model(neon_file() | {"train_input_shape": (1, 32, 32)}))
    tree = neon_file()
    tree["model"]["type"] = "neon.layers.container.SingleOutputTree"
    with pytest.raises(NotAllCNNError, match=r"outermost container is .*SingleOutputTree"):
        convert_allcnn(parse_model(tree))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("parameter", ["W", "gvar", "beta"])
def test_numbers_that_are_not_finite_are_refused(value: float, parameter: str) -> None:
    tree = neon_file("batch_norm")
    layers = tree["model"]["config"]["layers"]
    holder = next(layer for layer in layers if parameter in layer.get("params", {}))
    holder["params"][parameter][0, 0] = value
    with pytest.raises(NeonError, match=f"damaged: {parameter} of .* not finite"):
        convert_allcnn(parse_model(tree))


def test_a_negative_variance_is_refused() -> None:
    tree = neon_file("batch_norm")
    tree["model"]["config"]["layers"][2]["params"]["gvar"][0, 0] = -1
    with pytest.raises(NeonError, match=r"a variance in .*BatchNorm is negative"):
        convert_allcnn(parse_model(tree))


def test_numbers_that_overflow_in_folding_are_refused() -> None:
    tree = neon_file("batch_norm")
    params = tree["model"]["config"]["layers"][2]["params"]
    params["gamma"][:], params["gvar"][:] = 3e38, 0
    with pytest.raises(NeonError, match=r"features\.conv1 are too large for float32"):
        convert_allcnn(parse_model(tree))


@pytest.mark.parametrize("settings", [{"eps": 0}, {"eps": "small"}, {"binary": True}])
def test_unusual_batch_normalisation_is_refused(settings: dict[str, Any]) -> None:
    tree = neon_file("batch_norm")
    tree["model"]["config"]["layers"][2]["config"].update(settings)
    with pytest.raises(NotAllCNNError, match="BatchNorm with eps"):
        convert_allcnn(parse_model(tree))


def test_too_few_parameters_are_not_taken_for_all_cnn_c() -> None:
    tree = early_neon_file()
    tree["layer_params_states"].pop()
    with pytest.raises(NotAllCNNError, match="ends after 8 layers"):
        convert_allcnn(parse_model(tree))
