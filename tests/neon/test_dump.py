"""A file that we write is one that neon would have written, and comes back bit by bit."""

import dataclasses
import pickle
import pickletools
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from allcnn_zoo import AllCNN, Architecture
from allcnn_zoo.checkpoint import build
from allcnn_zoo.errors import NeonError
from allcnn_zoo.from_neon import read_neon
from allcnn_zoo.neon import convert_allcnn, dump, read_model, read_pickle

from .trees import same
from .writer import Variant, neon_file, python2_pickle

SMALL = Architecture(widths=(2, 3), num_classes=4)


def all_cnn(architecture: Architecture = SMALL, *, biases: bool = True) -> AllCNN:
    torch.manual_seed(0)
    model = AllCNN(architecture)
    if biases:
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(parameter)
    return model


def assert_comes_back(model: AllCNN, path: Path) -> None:
    dump(model, path)
    converted = convert_allcnn(read_model(path), keep_padding=True).weights
    state = model.state_dict()
    assert converted.keys() == state.keys()
    for name, tensor in state.items():
        assert converted[name].tobytes() == tensor.numpy().tobytes(), name


@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize("outputs", [4, 16])
def test_weights_come_back_bit_by_bit(tmp_path, outputs, biases) -> None:
    architecture = Architecture(widths=(2, 3), num_classes=outputs)
    assert_comes_back(all_cnn(architecture, biases=biases), tmp_path / "new.p")


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=9))
def test_any_weights_come_back_bit_by_bit(tmp_path_factory, numbers) -> None:
    model = all_cnn()
    for parameter in model.parameters():
        values = np.resize(np.array(numbers, np.float32), parameter.shape)
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(values))
        numbers = numbers[1:] + numbers[:1]
    assert_comes_back(model, tmp_path_factory.mktemp("dump") / "new.p")


@pytest.mark.parametrize("variant", ["plain", "bias"])
def test_what_was_neons_stays_in_neons_native_mode(tmp_path, variant: Variant) -> None:
    (tmp_path / "old.p").write_bytes(python2_pickle(neon_file(variant)))
    model = build(*read_neon(tmp_path / "old.p", keep_padding=True))
    assert_comes_back(model, tmp_path / "new.p")
    written = read_model(tmp_path / "new.p")
    assert written.compat_mode == "neon"
    assert written.epoch == 350
    kinds = {layer.kind for layer in written.layers}
    assert ("Convolution_bias" in kinds) is (variant == "bias")


@pytest.mark.parametrize("epoch", [-1, 1 << 31, 1 << 100, "350", None])
def test_an_epoch_that_neon_cannot_count_is_left_out(tmp_path, epoch) -> None:
    (tmp_path / "old.p").write_bytes(python2_pickle(neon_file("plain")))
    model = build(*read_neon(tmp_path / "old.p", keep_padding=True))
    model.weights = dataclasses.replace(model.weights, provenance={"epoch": epoch})
    assert_comes_back(model, tmp_path / "new.p")
    assert read_model(tmp_path / "new.p").epoch == 0


def test_weights_that_no_factor_gives_are_written_in_caffes_mode(tmp_path) -> None:
    model = all_cnn()
    with torch.no_grad():
        weight = model.features.get_parameter("conv1.weight")
        weight.copy_(torch.linspace(1.6, 2, weight.numel()).view_as(weight))
    assert_comes_back(model, tmp_path / "new.p")
    assert read_model(tmp_path / "new.p").compat_mode == "caffe"


def test_a_negative_zero_is_a_bias(tmp_path) -> None:
    model = all_cnn(biases=False)
    with torch.no_grad():
        model.classifier.get_parameter("bias").fill_(-0.0)
    assert_comes_back(model, tmp_path / "new.p")


def test_dropout_is_the_models_own(tmp_path) -> None:
    dump(AllCNN(SMALL, dropout=(0.1, 0.0)), tmp_path / "new.p")
    layers = read_model(tmp_path / "new.p").layers
    assert [layer.option("keep") for layer in layers if layer.kind == "Dropout"] == [0.9, 1, 1]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (AllCNN(Architecture("allcnn_a", widths=(2, 3))), "this is allcnn_a"),
        (AllCNN(Architecture(widths=(2, 3), last_padding=0)), "not padded"),
        (AllCNN(Architecture(widths=(2, 3), final_relu=False)), "no ReLU"),
        (AllCNN(SMALL, batch_norm=True), "fold_batch_norm"),
    ],
    ids=["allcnn_a", "unpadded", "no relu", "batch norm"],
)
def test_other_networks_are_refused(tmp_path, model, message) -> None:
    with pytest.raises(NeonError, match=message):
        dump(model, tmp_path / "new.p")
    assert not any(tmp_path.iterdir())


def test_weights_that_are_not_finite_are_refused(tmp_path) -> None:
    model = all_cnn()
    with torch.no_grad():
        model.classifier.get_parameter("weight").fill_(float("nan"))
    with pytest.raises(NeonError, match=r"classifier\.weight has values that are not finite"):
        dump(model, tmp_path / "new.p")


def test_python_reads_it_as_we_do(tmp_path) -> None:
    path = tmp_path / "new.p"
    dump(all_cnn(), path)
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy's, about Python 2's flags
        assert same(read_pickle(path), pickle.load(file, encoding="latin1"))


# Opcode by opcode like the genuine files.


def opcodes(path: Path) -> list[tuple[str, object]]:
    """Opcodes and arguments; only the length of an array's data, and neither counters nor seeds."""
    found: list[tuple[str, object]] = []
    for opcode, argument, _ in pickletools.genops(path.read_bytes()):
        name, value = opcode.name, argument
        if name == "BINSTRING" or (name == "SHORT_BINSTRING" and not value.isprintable()):
            name, value = "BINSTRING", len(value)  # an array's data
        elif name == "SHORT_BINSTRING":
            value = re.sub("[0-9]+", "#", value)  # a counter in a name
        elif name in ("BININT1", "BININT2"):
            name = "BININT"
        elif name == "BINFLOAT":
            value = None
        found.append((name, value))
    return found


@pytest.mark.parametrize(
    "name",
    [
        "s3/cifar10_allcnn/cifar10_allcnn_e350.p",
        "allcnn/allcnn_tiny_py2_v2.3.0_plain.p",
        "allcnn/allcnn_tiny_py2_v2.3.0_10class.p",
        "allcnn/allcnn_tiny_py2_v2.3.0_caffe.p",
        "allcnn/allcnn_tiny_py2_v2.3.0_bias.p",
    ],
)
def test_genuine_files_are_laid_out_the_same(shared, tmp_path, name) -> None:
    genuine = shared / "neon" / name
    model = build(*read_neon(genuine, keep_padding=True))
    assert_comes_back(model, tmp_path / "new.p")
    ours, neons = opcodes(tmp_path / "new.p"), opcodes(genuine)
    assert [name for name, _ in ours] == [name for name, _ in neons]
    different = [(a, b) for a, b in zip(ours, neons, strict=True) if a != b]
    assert len(different) <= 3, different  # epoch, seed and position of the random numbers
    assert {name for (name, _), _ in different} <= {"BININT"}
    exact = read_model(genuine).compat_mode == "caffe"
    for found, expected in zip(
        read_model(tmp_path / "new.p").layers, read_model(genuine).layers, strict=True
    ):
        for key in expected.params:
            np.testing.assert_allclose(
                found.params[key], expected.params[key], rtol=0 if exact else 2e-7
            )
