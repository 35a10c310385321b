"""All-CNN from neon's files: neon's own logits, or the first difference from its All-CNN-C."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from allcnn_zoo import Classifier, convert_neon, load, rescue_neon
from allcnn_zoo.architectures import CIFAR10_CLASSES
from allcnn_zoo.checkpoint import Checkpoint, read_metadata
from allcnn_zoo.errors import NeonError, NotAllCNNError
from allcnn_zoo.from_neon import candidates, read_neon
from allcnn_zoo.model import build

from .neon.writer import (
    Variant,
    component,
    early_neon_file,
    layer_record,
    neon_file,
    python2_pickle,
    python3_pickle,
)

VARIANTS: tuple[Variant, ...] = ("plain", "bias", "early_bias", "batch_norm")
CONVOLUTIONS = [f"features.conv{number}" for number in range(1, 9)] + ["classifier"]


def read(tree: dict[str, Any], **options: Any) -> Checkpoint:
    """What a file of this tree most probably means."""
    return candidates(python3_pickle(tree), **options)[0]


def logits(found: Checkpoint, images: np.ndarray) -> torch.Tensor:
    with torch.inference_mode():
        return build(*found).double()(torch.from_numpy(images))


def equal(one: Checkpoint, other: Checkpoint) -> bool:
    """Whether all weights are the same, bit by bit."""
    return one.tensors.keys() == other.tensors.keys() and all(
        torch.equal(one.tensors[name], other.tensors[name]) for name in one.tensors
    )


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


# What is converted.


@pytest.mark.parametrize("compat_mode", ["neon", "caffe"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_are_neons(variant: Variant, compat_mode: str, images: np.ndarray) -> None:
    tree = neon_file(variant, compat_mode=compat_mode)
    expected = as_neon_does(tree, images)
    assert expected.abs().max() > 0.1
    found = logits(read(tree, keep_padding=True), images)
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_biases_and_batch_normalization_fold_in_any_order(images: np.ndarray) -> None:
    tree, other = neon_file("bias"), neon_file("batch_norm")
    layers, others = (each["model"]["config"]["layers"] for each in (tree, other))
    bias = layer_record("Bias", {"W": others[2]["params"]["beta"]})
    layers[CONV1 + 1 : CONV1 + 1] = [bias, others[2], bias, bias]
    found = read(tree, keep_padding=True)
    assert torch.allclose(logits(found, images), as_neon_does(tree, images), rtol=1e-5, atol=1e-6)
    assert found.metadata.provenance["batch_norm_folded"] == {"features.conv1": 1e-3}


@pytest.mark.parametrize(
    ("outputs", "keep_padding", "names"),
    [
        (16, False, CIFAR10_CLASSES),
        (16, True, (*CIFAR10_CLASSES, *(f"padding_{i}" for i in range(10, 16)))),
        (10, False, CIFAR10_CLASSES),
        (3, False, ("class_0", "class_1", "class_2")),
    ],
)
def test_outputs_get_their_names_and_padding_is_dropped_unless_kept(
    outputs: int, keep_padding: bool, names: tuple[str, ...], images: np.ndarray
) -> None:
    tree = neon_file("bias", outputs=outputs)
    found = read(tree, keep_padding=keep_padding)
    assert found.metadata.classes == names
    assert found.metadata.provenance["padding_outputs_dropped"] == outputs - len(names)
    everything = logits(read(tree, keep_padding=True), images)
    assert torch.equal(logits(found, images), everything[:, : len(names)])


def test_weights_have_our_names_shapes_and_layout() -> None:
    tensors, metadata, _ = read(neon_file(widths=(4, 5)))
    assert {name: tuple(t.shape) for name, t in tensors.items()} == metadata.architecture.shapes()
    assert metadata.architecture.widths == (4, 5)
    assert (metadata.architecture.last_padding, metadata.architecture.final_relu) == (1, True)
    assert all(t.dtype == torch.float32 and t.is_contiguous() for t in tensors.values())


@pytest.mark.parametrize("dtype", [">f4", "<f2", ">f8"])
def test_weights_of_any_float_type_convert(dtype: str) -> None:
    tree = neon_file("bias")
    for layer in tree["model"]["config"]["layers"]:
        for name, values in layer.get("params", {}).items():
            layer["params"][name] = values.astype("f2").astype("f4")
    expected = read(tree)
    for layer in tree["model"]["config"]["layers"]:
        for name, values in layer.get("params", {}).items():
            layer["params"][name] = values.astype(dtype)
    assert equal(expected, read(tree))


def test_provenance_says_what_was_done() -> None:
    tree = neon_file("batch_norm", version="1.4.0")
    provenance = dict(read(tree, source_url="https://host/x.p").metadata.provenance)
    assert provenance == json.loads(json.dumps(provenance))
    assert provenance.pop("converter_version") >= 1
    source = provenance.pop("source")
    assert (source["url"], len(source["sha256"])) == ("https://host/x.p", 64)
    assert provenance == {
        "neon_version": "1.4.0",
        "backend": "NervanaGPU",
        "epoch": 350,
        "compat_mode": "neon",
        "dropout_folded": dict(zip(CONVOLUTIONS[::3], (0.8, 0.5, 0.5), strict=True)),
        "batch_norm_folded": dict.fromkeys(CONVOLUTIONS[:-1], 1e-3),
        "zero_biases": ["classifier"],
        "padding_outputs_dropped": 6,
        "assumed": [],
    }
    in_caffe_mode = read(neon_file(compat_mode="caffe")).metadata.provenance
    assert (in_caffe_mode["compat_mode"], in_caffe_mode["dropout_folded"]) == ("caffe", {})
    assert in_caffe_mode["zero_biases"] == CONVOLUTIONS


# Files of neon 1.1.5 and older, which hold parameters only.


@pytest.mark.parametrize("variant", ["plain", "bias", "batch_norm"])
def test_parameters_without_a_network_are_taken_for_all_cnn_c(variant: Variant) -> None:
    tree = neon_file("early_bias" if variant == "bias" else variant)
    for layer in tree["model"]["config"]["layers"]:
        if layer["type"].endswith("BatchNorm"):
            layer["config"]["eps"] = 1e-6  # as it was then
    early = read(early_neon_file(variant))
    assert equal(early, read(tree))
    assert set(early.metadata.provenance["batch_norm_folded"].values()) <= {1e-6}
    architecture, mode = early.metadata.provenance["assumed"]
    assert "lists parameters without their network" in architecture
    assert "does not record how dropout works" in mode


def test_a_file_that_does_not_tell_how_dropout_works_has_two_meanings() -> None:
    found = candidates(python2_pickle(early_neon_file()))
    for one, mode in zip(found, ("neon", "caffe"), strict=True):
        assert equal(one, read(neon_file(compat_mode=mode)))
        assert equal(one, read(early_neon_file(), dropout_mode=mode))
        assert f"pass dropout_mode={mode!r}" not in one.metadata.provenance["assumed"][1]
    assert len(candidates(python2_pickle(neon_file()))) == 1


def test_the_dropout_mode_can_be_told_where_the_file_does_not() -> None:
    early = read(early_neon_file(), dropout_mode="caffe").metadata.provenance
    assert early["dropout_folded"] == {}
    assert "'caffe', as requested" in early["assumed"][1]
    assert read(neon_file(), dropout_mode="neon").metadata.provenance["assumed"] == []
    with pytest.raises(NeonError, match="records dropout mode 'neon', which is not 'caffe'"):
        read(neon_file(), dropout_mode="caffe")


# Layers' names in neon 1.0 and 1.1: the class's, the user's, or none; or only an array.
EARLY_NAMES: dict[str, Callable[[dict[str, Any], int], Any]] = {
    "the user's": lambda params, index: {**params, "name": f"conv{index}"},
    "strange": lambda params, index: {**params, "name": "\x1b[2J\n" * (index + 1)},
    "none": lambda params, _: {"W": params["W"]},
    "only an array": lambda params, _: params["W"],
}


@pytest.mark.parametrize("variant", ["plain", "bias"])
@pytest.mark.parametrize("names", EARLY_NAMES)
def test_early_records_convert_whatever_their_layers_are_called(
    names: str, variant: Variant
) -> None:
    tree = early_neon_file(variant)
    expected = read(tree)
    for index, record in enumerate(tree["layer_params_states"]):
        record["params"] = EARLY_NAMES[names](record["params"], index)
    assert equal(expected, read(tree))


# What is refused.

# Layers in the records of the plain network, for the changes below.
DROPOUT, CONV1, RELU1, CONV3, CONV8, POOLING, SOFTMAX = 0, 1, 2, 5, 17, 21, 22

Change = Callable[[list[Any]], None]


def _config(index: int, **settings: Any) -> Change:
    return lambda layers: layers[index]["config"].update(settings)


def _replace(index: int, kind: str, **config: Any) -> Change:
    return lambda layers: layers.__setitem__(index, component(f"layers.{kind}", **config))


def _transform(index: int, kind: str, **config: Any) -> Change:
    return _config(index, transform=component(f"transforms.activation.{kind}", **config))


def _params(index: int, **params: Any) -> Change:
    return lambda layers: layers[index]["params"].update(params)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            _replace(3, "container.MergeSum"),
            r"layers\.3_MergeSum is neon\.layers\.container\.MergeSum; All-CNN-C has its Conv",
        ),
        (lambda layers: layers.pop(), "it ends where All-CNN-C has its Activation"),
        (lambda layers: layers.clear(), "it ends where All-CNN-C has its Dropout"),
        (
            lambda layers: layers.append(dict(layers[0], config={})),
            "23_Dropout is neon.layers.layer.Dropout; All-CNN-C has its end",
        ),
        (_config(DROPOUT, keep=0), "0_Dropout is unusual: it keeps 0.0 of its inputs"),
        (_config(DROPOUT, keep="half"), "0_Dropout is unusual: its keep is 'half'"),
        (_config(CONV1, strides=2), r"has the stride \[2, 2\]; All-CNN-C has \[1, 1\] there"),
        (_config(CONV3, strides={"str_h": 2}), r"stride \[2, 1\]; All-CNN-C has \[2, 2\]"),
        (_config(CONV3, strides=np.ones(2)), "its strides is a float64 array"),
        (_config(CONV1, padding=0), r"has the padding \[0, 0\]; All-CNN-C has \[1, 1\]"),
        (_config(CONV1, dilation=2), r"has the dilation \[2, 2\]; All-CNN-C has \[1, 1\]"),
        (_config(CONV1, fshape=(1, 27, 2)), r"conv1 have the shape \(2, 1, 1, 27\)"),
        (_config(CONV1, fshape=[np.ones(2), 3, 2]), "the shape of its kernels is a list"),
        (_config(CONV8, groups=4), "its 'groups' is not known"),
        (_transform(RELU1, "Tanh"), "has the function Tanh; All-CNN-C has Rectlin there"),
        (_transform(RELU1, "Rectlin", slope=0.1), "has the slope 0.1; All-CNN-C has 0 there"),
        (_transform(SOFTMAX, "Logistic"), "has the function Logistic; All-CNN-C has Softmax"),
        (_config(POOLING, op="max"), "has the operation max; All-CNN-C has avg there"),
        (_config(POOLING, fshape=4), r"has the kernel \[4, 4\]; All-CNN-C has \[8, 8\] there"),
        (_config(POOLING, padding=1), r"has the padding \[1, 1\]; All-CNN-C has \[0, 0\] there"),
        (_params(CONV1, W=np.zeros((27, 2), "i4")), "has a int32 array .* in place of its weight"),
        (
            _params(CONV1, W=np.zeros((18, 2), "f4")),
            r"conv1 have the shape \(2, 2, 3, 3\); All-CNN-C has \(2, 3, 3, 3\)",
        ),
        (_params(CONV1, extra=np.zeros(2, "f4")), "its 'extra' is not known"),
        (lambda layers: layers[1].pop("params"), "has none in place of its weight"),
    ],
)
def test_another_network_is_refused_with_the_first_difference(change: Change, message: str) -> None:
    tree = neon_file()
    change(tree["model"]["config"]["layers"])
    with pytest.raises(NotAllCNNError, match=message):
        read(tree)


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
def test_other_spellings_of_the_same_network_convert(change: Change) -> None:
    tree = neon_file()
    expected = read(tree)
    change(tree["model"]["config"]["layers"])
    assert equal(expected, read(tree))


def test_three_widths_are_refused() -> None:
    tree = neon_file()
    layers = tree["model"]["config"]["layers"]
    layers[CONV8] = layer_record("Convolution", {"W": np.zeros((3, 4), "f4")}, fshape=(1, 1, 4))
    layers[CONV8 + 2]["params"]["W"] = np.zeros((4, 16), "f4")
    with pytest.raises(
        NotAllCNNError, match=r"conv8 have the shape \(4, 3, 1, 1\); All-CNN-C has \(3, 3, 1, 1\)"
    ):
        read(tree)


def test_another_input_container_or_mode_is_refused() -> None:
    with pytest.raises(NotAllCNNError, match=r"its input has shape \(1, 32, 32\)"):
        read(neon_file() | {"train_input_shape": (1, 32, 32)})
    tree = neon_file()
    tree["model"]["type"] = "neon.layers.container.SingleOutputTree"
    with pytest.raises(NotAllCNNError, match=r"outermost container is .*SingleOutputTree"):
        read(tree)
    with pytest.raises(NeonError, match="unknown mode 'torch'"):
        read(neon_file(compat_mode="torch"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda records: records.pop(-2), "19_Bias has a float32 array"),
        (
            lambda records: records.append(records[-2]),
            "21_Convolution is Convolution; All-CNN-C has its end",
        ),
        (lambda records: records[0]["params"].update(W=np.zeros((5, 2))), "would have a float64"),
        (lambda records: records[0]["params"].pop("W"), "would have None"),
        (
            lambda records: records.insert(0, records[1]),
            "0_Bias is Bias; All-CNN-C has its Dropout",
        ),
        (
            lambda records: records[1]["params"].update(name="LinearLayer"),
            "2_Linear is Linear; All-CNN-C has its Convolution",
        ),
        (
            lambda records: records[1]["params"].update(name="OddLayer"),
            "2_Odd is Odd; All-CNN-C has its Convolution",
        ),
    ],
)
def test_parameters_of_other_networks_are_not_taken_for_all_cnn_c(
    change: Change, message: str
) -> None:
    tree = early_neon_file("bias")
    change(tree["layer_params_states"])
    with pytest.raises(NotAllCNNError, match=message):
        read(tree)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("parameter", "ours"), [("W", "weight"), ("gvar", "running_var"), ("beta", "bias")]
)
def test_numbers_that_are_not_finite_are_refused(value: float, parameter: str, ours: str) -> None:
    tree = neon_file("batch_norm")
    layers = tree["model"]["config"]["layers"]
    holder = next(layer for layer in layers if parameter in layer.get("params", {}))
    holder["params"][parameter][0, 0] = value
    with pytest.raises(NeonError, match=f"damaged: the {ours} of layers.*not finite"):
        read(tree)


@pytest.mark.parametrize(
    ("params", "config", "message"),
    [
        ({"gvar": -1}, {}, "a variance in .*BatchNorm is negative"),
        ({"gamma": 3e38, "gvar": 0}, {}, r"features\.conv1 are too large for float32"),
        ({"gvar": 0}, {"eps": 0}, r"features\.conv1 are too large for float32"),
        ({}, {"eps": "small"}, "its eps is 'small'"),
        ({}, {"binary": True}, "shifts bits"),
    ],
)
def test_batch_normalization_that_cannot_be_folded_is_refused(
    params: dict[str, float], config: dict[str, Any], message: str
) -> None:
    tree = neon_file("batch_norm")
    layer = tree["model"]["config"]["layers"][2]
    layer["config"].update(config)
    for name, value in params.items():
        layer["params"][name][:] = value
    with pytest.raises(NeonError, match=message):
        read(tree)


# Files.


@pytest.fixture
def legacy(tmp_path):
    path = tmp_path / "old.p"
    path.write_bytes(python2_pickle(neon_file()))
    return path


def test_a_file_its_bytes_and_its_conversion_are_the_same_network(legacy, tmp_path, noise) -> None:
    copy = tmp_path / "elsewhere.p"
    copy.write_bytes(legacy.read_bytes())
    returned = [convert_neon(path, path.with_suffix(".safetensors")) for path in (copy, legacy)]
    new = legacy.with_suffix(".safetensors")
    assert new.read_bytes() == copy.with_suffix(".safetensors").read_bytes()
    assert read_metadata(new) == returned[0] == returned[1]
    models = (load(legacy), load(new), build(*read_neon(legacy.read_bytes())))
    as_python_3_writes_it = build(*read(neon_file()))
    for model in models:
        assert torch.equal(model(noise(2, 3, 32, 32)), as_python_3_writes_it(noise(2, 3, 32, 32)))


@pytest.mark.parametrize("convert", [convert_neon, rescue_neon])
@pytest.mark.parametrize("name", ["old.p", "link.p", "folder/old.p"])
def test_the_legacy_file_is_never_written_over(legacy, tmp_path, convert, name) -> None:
    before = legacy.read_bytes()
    (tmp_path / "link.p").symlink_to(legacy)
    (tmp_path / "folder").symlink_to(tmp_path)
    with pytest.raises(NeonError, match="would be overwritten"):
        convert(legacy, tmp_path / name)
    assert legacy.read_bytes() == before


@pytest.mark.parametrize("convert", [convert_neon, rescue_neon])
def test_a_file_that_is_refused_costs_nothing(tmp_path, convert) -> None:
    (tmp_path / "evil.p").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    destination = tmp_path / "precious.safetensors"
    destination.write_bytes(b"precious")
    with pytest.raises(NeonError, match=r"evil\.p: byte 0: the file names 'os\.system'"):
        convert(tmp_path / "evil.p", destination)
    assert destination.read_bytes() == b"precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evil.p", "precious.safetensors"]


def test_what_had_to_be_assumed_is_a_warning_and_on_record(tmp_path) -> None:
    (tmp_path / "old.p").write_bytes(python2_pickle(early_neon_file()))
    with pytest.warns(UserWarning, match=r"does not record|without their") as caught:
        metadata = convert_neon(tmp_path / "old.p", tmp_path / "new.safetensors")
    warned = [str(each.message) for each in caught]
    assumed = [f"{tmp_path}/old.p: {each}" for each in metadata.provenance["assumed"]]
    assert warned[: len(assumed)] == assumed


# Genuine files, with neon's own outputs.


def test_every_genuine_file_gives_neons_own_probabilities(shared) -> None:
    folder = shared / "neon" / "allcnn"
    images = torch.from_numpy(np.load(folder / "input16.npz")["whitened"])
    files = sorted(folder.glob("*_tiny_*.p"))
    assert files
    for path in files:
        with torch.inference_mode():
            found = build(*candidates(path, keep_padding=True)[0])(images).softmax(1).numpy()
        expected = np.load(path.with_name(f"{path.stem}_ref.npz"))["softmax"]
        np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0, err_msg=path.name)


def test_the_published_stand_in_agrees_with_neon_on_test_images(shared, real_cifar10) -> None:
    # Every hundredth, for the sake of time; benchmarks/faithful.py compares all 10,000.
    from allcnn_zoo import CIFAR10

    test = CIFAR10(real_cifar10).test
    published = shared / "neon" / "s3" / "cifar10_allcnn" / "cifar10_allcnn_e350.p"
    reference = np.load(shared / "neon" / "s3_reference.npz")
    row = {name: index for index, name in enumerate(reference["filenames"])}
    expected = reference["softmax"][[row[name] for name in test.filenames[::100]]]
    classifier = Classifier(build(*candidates(published, keep_padding=True)[0]))
    probabilities = classifier.predict_proba(test.images[::100])
    np.testing.assert_allclose(probabilities, expected, atol=1e-4, rtol=0)
    assert (probabilities.argmax(1) == expected.argmax(1)).all()
