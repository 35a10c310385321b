"""A weights file says what it is, and is believed only as far as it proves true."""

import contextlib
import copy
import dataclasses
import json
import math
import shutil
import struct
import subprocess
import sys
import traceback
import warnings
from types import MappingProxyType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from allcnn_zoo import AllCNN, Architecture, Metadata, load
from allcnn_zoo.checkpoint import read, read_metadata, save
from allcnn_zoo.errors import CheckpointError

from .test_weights import own_statistics

SMALL = Architecture(widths=(4, 6), num_classes=3)


@pytest.fixture
def model() -> AllCNN:
    torch.manual_seed(0)
    return AllCNN(SMALL).eval()


@pytest.fixture
def metadata() -> Metadata:
    return Metadata(
        "mine", SMALL, ("a", "b", "c"), provenance={"recipe": "none"}, metrics={"top1": 33.3}
    )


@pytest.fixture
def path(tmp_path, model, metadata):
    save(tmp_path / "mine.safetensors", model.state_dict(), metadata)
    return tmp_path / "mine.safetensors"


def header_of(path) -> dict:
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    return json.loads(raw[8 : 8 + length])["__metadata__"]


def rewrite(path, change) -> None:
    """Change a weights file behind its back; `change` gets the tensors and the header."""
    tensors = load_file(path)
    header = json.loads(header_of(path)["allcnn_zoo"])
    changed = change(tensors, header)
    header = header if changed is None or isinstance(changed, torch.Tensor) else changed
    save_file(tensors, path, {"allcnn_zoo": json.dumps(header)})


def become_format_1(tensors, header, temperature=1.0) -> None:
    del tensors["_extra_state"], header["digest"]
    header.update(format_version=1, temperature=temperature)


def nested(levels: int) -> dict:
    value: dict = {}
    for _ in range(levels):
        value = {"inside": [value]}
    return value


def test_what_is_saved_is_what_is_loaded(path, model, metadata, noise) -> None:
    loaded = load(path)
    assert loaded.weights == read_metadata(path)
    assert dataclasses.replace(loaded.weights, digest=None) == metadata
    assert not loaded.training
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    images = noise(2, 3, 32, 32)
    torch.testing.assert_close(loaded(images), model(images), atol=0, rtol=0)


def test_the_same_input_gives_the_same_bytes(path, model, metadata, tmp_path) -> None:
    reordered = dict(reversed(model.state_dict().items()))
    save(tmp_path / "again.safetensors", reordered, metadata)
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_any_safetensors_reader_can_read_it(path, model) -> None:
    assert load_file(path).keys() == model.state_dict().keys()
    assert header_of(path)["format"] == "pt"  # which some readers insist on


def test_saving_replaces_the_old_file_or_leaves_it_alone(path, model, metadata) -> None:
    before = path.read_bytes()
    state = model.state_dict()
    state["classifier.bias"] = torch.full((3,), torch.nan)
    with pytest.raises(CheckpointError, match=r"classifier\.bias.*not finite"):
        save(path, state, metadata)
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_missing_folder_is_an_os_error(tmp_path, model, metadata) -> None:
    with pytest.raises(OSError, match="nowhere"):
        save(tmp_path / "nowhere" / "x.safetensors", model.state_dict(), metadata)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, h: t.__delitem__("classifier.bias"), r"classifier\.bias.*missing"),
        (lambda t, h: t.update(extra=torch.zeros(1)), "extra.*not one of its parameters"),
        (lambda t, h: t.update({"classifier.bias": torch.zeros(4)}), r"classifier\.bias is"),
        (lambda t, h: t.update({"classifier.bias": torch.zeros(3).double()}), "float64"),
        (lambda t, h: t.update({"classifier.bias": torch.zeros(3).bfloat16()}), "BF16"),
        (lambda t, h: t.update({"classifier.bias": torch.zeros(3).int()}), "int32"),
        (lambda t, h: t.update({"_extra_state": torch.zeros(3)}), "another network"),
        (lambda t, h: t.update({"classifier.bias": torch.full((3,), torch.inf)}), "not finite"),
        (lambda t, h: h.update(format_version=99), "99.*upgrade"),
        (lambda t, h: h.update(classes=["a"]), "1 class names for 3 outputs"),
        (lambda t, h: become_format_1(t, h, 0), "temperature"),
        (lambda t, h: become_format_1(t, h, "hot"), "temperature"),
        (lambda t, h: become_format_1(t, h, True), "temperature"),
        (lambda t, h: become_format_1(t, h, 10**400), "temperature"),
        (lambda t, h: become_format_1(t, h, 5e-324), "temperature"),
        (
            lambda t, h: (
                t["classifier.bias"].fill_(1e36),
                become_format_1(t, h, 1e-3),
            )[1],
            "divided by the temperature",
        ),
        (lambda t, h: h.update(digest=5), "digest"),
        (lambda t, h: h.pop("digest") and None, "damaged"),
        (lambda t, h: h.update(tag=5), "the name 5"),
        (lambda t, h: h.update(tag="\x1b[31mred"), "text of one line"),
        (lambda t, h: h.update(provenance="x"), "provenance"),
        (lambda t, h: h.update(metrics=[1]), "metrics"),
        (lambda t, h: h.update(metrics={"loss": [math.inf]}), "not a finite number"),
        (lambda t, h: h.update(provenance={"lr": math.nan}), "not a finite number"),
        (lambda t, h: h["architecture"].update(final_relu=[]), "final_relu"),
        (lambda t, h: h["architecture"].update(final_relu="no"), "final_relu"),
        (lambda t, h: h["architecture"].update(last_padding=1.0), "last_padding"),
        (lambda t, h: h["architecture"].update(last_padding=True), "last_padding"),
        (lambda t, h: h.update(preprocessing="none"), "no preprocessing is called 'none'"),
        (lambda t, h: h["architecture"].update(name="resnet"), "resnet"),
        (lambda t, h: h["architecture"].update(widths=[4, 7]), r"conv4\.weight"),
        (lambda t, h: h["architecture"].update(widths=[10**9, 10**9]), "65536"),
        (lambda t, h: h["architecture"].update(widths=7), "damaged"),
        (lambda t, h: h["architecture"].update(surprise=1), "damaged"),
        (lambda t, h: h.pop("architecture") and None, "damaged"),
        (lambda t, h: h.update(surprise=1), "damaged"),
        (lambda t, h: h.update(provenance=nested(200)), "levels of nesting"),
        (lambda t, h: [1, 2], "damaged"),
        (lambda t, h: "text", "damaged"),
    ],
)
def test_a_header_that_lies_is_found_out(path, change, message: str) -> None:
    rewrite(path, change)
    with pytest.raises(CheckpointError, match=message):
        load(path)


@pytest.mark.parametrize("key", ["\x1b]0;mine\x07", "\u202e\u2028", "k" * 100_000])
def test_a_traceback_shows_no_more_of_a_header_than_the_message(path, key: str) -> None:
    shutil.copy(path, path.with_name("sound"))
    for change in (
        lambda t, h: h.update({key: 1}),
        lambda t, h: h["architecture"].update({key: 1}),
        lambda t, h: h.update(preprocessing="own", whitening=json.dumps({key: 1})),
    ):
        rewrite(path, change)
        with pytest.raises(CheckpointError, match="damaged") as caught:
            load(path)
        told = "".join(traceback.format_exception(caught.value))
        assert all(line.isprintable() and len(line) < 1000 for line in told.split("\n"))
        shutil.copy(path.with_name("sound"), path)


@pytest.mark.parametrize(
    "value",
    [float("nan"), np.float32(0.9), {1, 2}, {"a": b"bytes"}, nested(60), nested(100_000)],
    ids=lambda value: type(value).__name__,
)
def test_only_json_values_are_written(path, model, metadata, value) -> None:
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match="JSON values only"):
        save(path, model.state_dict(), dataclasses.replace(metadata, metrics={"top1": value}))
    assert path.read_bytes() == before


def test_any_mapping_is_written(path, model, metadata) -> None:
    facts = MappingProxyType({"test": MappingProxyType({"accuracy": 0.5})})
    save(path, model.state_dict(), dataclasses.replace(metadata, metrics=facts))
    assert load(path).weights.metrics == {"test": {"accuracy": 0.5}}


@pytest.mark.parametrize(
    ("texts", "message"),
    [({"allcnn_zoo": "[" * 100_000}, "damaged"), (None, r"mine\.safetensors.*another program")],
)
def test_what_is_no_header_of_ours_is_named_as_such(path, texts, message) -> None:
    save_file(load_file(path), path, texts)
    with pytest.raises(CheckpointError, match=message):
        load(path)


def test_a_missing_file_and_a_folder_are_named(tmp_path) -> None:
    for path in (tmp_path / "missing.safetensors", tmp_path):
        with pytest.raises(CheckpointError, match=path.name):
            read(path)


@pytest.mark.parametrize("temperature", [0.5, 1, 2.0])
def test_a_file_of_format_1_gives_the_probabilities_that_it_gave(
    path, model, noise, temperature: float
) -> None:
    rewrite(path, lambda t, h: become_format_1(t, h, temperature))
    loaded = load(path)
    assert (loaded.weights.tag, loaded.weights.metrics) == ("mine", {"top1": 33.3})
    images = noise(4, 3, 32, 32)
    torch.testing.assert_close(loaded(images), model(images) / temperature)


def test_half_precision_halves_the_file_and_is_loaded_as_float32(path, model, metadata) -> None:
    before = path.stat().st_size
    save(path, model.state_dict(), metadata, dtype="float16")
    assert path.stat().st_size < 0.8 * before
    loaded = load(path)
    assert loaded.weights.metrics == metadata.metrics
    for name, tensor in loaded.state_dict().items():
        assert tensor.dtype == torch.float32
        torch.testing.assert_close(tensor, model.state_dict()[name], rtol=1e-3, atol=1e-4)


CHANGES = {
    "another sign": lambda t: t.neg_(),
    "zeros": lambda t: t.zero_().add_(1e-4),
    "two rows swapped": lambda t: t.copy_(t.flip(0) + 1e-6),
}


@pytest.mark.parametrize(
    "name", ["features.conv1.weight", "features.conv5.bias", "classifier.bias"]
)
@pytest.mark.parametrize("change", CHANGES)
def test_no_claim_survives_other_tensors_in_the_file(path, name: str, change: str) -> None:
    rewrite(path, lambda t, h: CHANGES[change](t[name]))
    with pytest.warns(UserWarning, match=r"mine\.safetensors.*not those that the header"):
        weights = load(path).weights
    assert (weights.tag, weights.metrics, weights.provenance) == ("custom", {}, {})
    assert weights.classes == ("a", "b", "c")


def test_statistics_of_ones_own_travel_with_the_weights(tmp_path, model, metadata) -> None:
    path, own = tmp_path / "own.safetensors", own_statistics()
    described = dataclasses.replace(metadata, preprocessing="own")
    save(path, model.state_dict(), described, preprocess=own)
    loaded = load(path)
    pixels = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8)
    torch.testing.assert_close(loaded.preprocess(pixels), own(pixels))
    assert loaded.weights.metrics == copy.deepcopy(loaded).weights.metrics == metadata.metrics
    loaded.preprocess.mean += 1e-3
    assert loaded.weights.metrics == {}
    for change in (
        lambda t, h: h.update(whitening=h["whitening"].replace("55.0", "54.0")),
        lambda t, h: t["preprocessing.mean"].add_(1),
    ):
        rewrite(path, change)
        with pytest.warns(UserWarning, match="not those"):
            assert load(path).weights.metrics == {}
        save(path, model.state_dict(), described, preprocess=own)
    rewrite(path, lambda t, h: h.update(preprocessing="cifar10_gcn_zca"))
    with pytest.raises(CheckpointError, match="holds statistics, but names"):
        load(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda own: own.mean.fill_(float("nan")),
        lambda own: own.matrix.fill_(float("inf")),
        lambda own: own.double(),
        lambda own: setattr(own, "mean", own.mean[:5]),
        lambda own: setattr(
            own, "fitted_with", dataclasses.replace(own.fitted_with, gcn_scale=1e300)
        ),
    ],
)
def test_statistics_that_would_be_refused_are_not_saved(tmp_path, model, metadata, change) -> None:
    own = own_statistics()
    change(own)
    described = dataclasses.replace(metadata, preprocessing="own")
    with pytest.raises(CheckpointError):
        save(tmp_path / "own.safetensors", model.state_dict(), described, preprocess=own)
    with pytest.raises(CheckpointError):
        own.save(tmp_path / "own.safetensors")
    assert not (tmp_path / "own.safetensors").exists()


def test_a_file_that_shrinks_afterwards_harms_nobody(path, noise) -> None:
    loaded = load(path)
    path.write_bytes(b"")
    assert loaded(noise(1, 3, 32, 32)).isfinite().all()


SHRINKING = """
import contextlib, json, os, sys
from allcnn_zoo import errors, load
parse = json.loads

def shrink(text, **options):  # when the header has been read, and the tensors may not
    os.truncate(sys.argv[1], 0)
    return parse(text, **options)

json.loads = shrink
with contextlib.suppress(errors.CheckpointError):
    load(sys.argv[1])
assert os.path.getsize(sys.argv[1]) == 0
"""


def test_a_file_that_shrinks_while_it_is_read_does_not_end_the_process(path) -> None:
    subprocess.run([sys.executable, "-c", SHRINKING, str(path)], check=True, timeout=100)


@given(st.data())
@settings(max_examples=30, deadline=None)
def test_damage_anywhere_is_an_error_or_harmless(tmp_path_factory, data) -> None:
    path = tmp_path_factory.mktemp("damage") / "mine.safetensors"
    save(path, AllCNN(SMALL).state_dict(), Metadata("mine", SMALL, ("a", "b", "c")))
    raw = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        del raw[data.draw(st.integers(0, len(raw) - 1)) :]
    else:
        raw[data.draw(st.integers(0, 1500))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(raw)
    with contextlib.suppress(CheckpointError), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # claims that do not hold
        load(path)
