"""From any neon file to a safetensors file, and what the command line says about either."""

import json

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import allcnn_zoo
from allcnn_zoo import rescue_neon
from allcnn_zoo.cli.files import facts_of as inspect_file
from allcnn_zoo.errors import CheckpointError, NeonError, NotAllCNNError
from allcnn_zoo.from_neon import convert_neon
from allcnn_zoo.neon import read_description

from .neon.writer import (
    component,
    layer_record,
    neon_file,
    network_file,
    python2_pickle,
    python3_pickle,
)

RECTIFIER = component("transforms.activation.Rectlin")
WEIGHT = np.arange(6, dtype=np.float32).reshape(2, 3)
NETWORK = network_file(
    layer_record("Linear", {"W": WEIGHT}, nout=2, name="Linear_7"),
    layer_record("Activation", transform=RECTIFIER),
    layer_record("Capsule", {"W": WEIGHT.copy()}),
)


@pytest.fixture
def legacy(tmp_path):
    path = tmp_path / "old.p"
    path.write_bytes(python2_pickle(NETWORK))
    return path


def test_arrays_are_in_the_file_and_layers_in_its_header_whoever_wrote_it(tmp_path) -> None:
    results = []
    for name, dump in (("py2", python2_pickle), ("py3", python3_pickle)):
        (tmp_path / f"{name}.p").write_bytes(dump(NETWORK))
        destination = tmp_path / f"{name}.safetensors"
        description = rescue_neon(tmp_path / f"{name}.p", destination, states=True)
        results.append(destination.read_bytes())
    assert results[0] == results[1]
    arrays = load_file(destination)
    names = {"layers.0_Linear.weight", "layers.2_Capsule.neon.W"}
    assert names == {name for name in arrays if not name.startswith("states.")}
    assert "states.0.layers.0_Linear.weight" in arrays
    np.testing.assert_array_equal(arrays["layers.0_Linear.weight"], WEIGHT)
    with safe_open(destination, "np") as file:
        header = json.loads(file.metadata()["neon_network"])
    assert header["layers"] == description["layers"]
    assert header["layers"][0]["settings"] == {"in_features": 3, "out_features": 2}
    assert header["not_understood"] == ["layers.2_Capsule"]


@pytest.mark.parametrize("dtype", ["?", "i1", "u2", "<i4", ">i8", "u8", "f2", ">f4", "f8"])
def test_any_kind_of_number_survives(tmp_path, dtype) -> None:
    values = np.array([[0, 1], [1, 1]]).astype(dtype)
    tree = network_file(layer_record("Capsule", {"W": values, "scalar": values[0, 1, ...]}))
    (tmp_path / "old.p").write_bytes(python3_pickle(tree))
    rescue_neon(tmp_path / "old.p", tmp_path / "new.safetensors")
    found = load_file(tmp_path / "new.safetensors")["layers.0_Capsule.neon.W"]
    np.testing.assert_array_equal(found, values)
    assert found.dtype == values.dtype.newbyteorder("=")


@pytest.mark.parametrize(
    "change",
    [
        lambda header: header.update(extra=json.loads("[" * 700 + "]" * 700)),
        lambda header: header["layers"][0].update(neon_name=5),
        lambda header: header["layers"][0].update(name=5),
        lambda header: header["layers"][0].pop("settings"),
        lambda header: header["layers"][0].update(settings=[]),
        lambda header: header["layers"][0]["arrays"]["weight"].update(shape=[10**600] * 60),
        lambda header: header["layers"][0]["arrays"]["weight"].update(shape=[2] * 4000),
        lambda header: header["layers"][0]["arrays"]["weight"].update(shape=[-1]),
        *("", "[]", "{}", '{"layers": 3}', "[" * 100_000, '{"name": "", "arrays": {"a": 1}}'),
    ],
)
def test_a_header_that_lies_is_one_error(legacy, tmp_path, run, change) -> None:
    path = tmp_path / "new.safetensors"
    header = json.loads(json.dumps({"format_version": 1, **rescue_neon(legacy, path)}))
    if callable(change):
        change(header)
    text = json.dumps(header) if callable(change) else change
    save_file(load_file(path), path, {"neon_network": text})
    with pytest.raises(CheckpointError, match=r"new\.safetensors: .*damaged"):
        read_description(path)
    status, out, error = run("inspect", path)
    assert (status, out) == (1, "")
    assert error.count("\n") == 1


@pytest.mark.parametrize("value", [5, {}, [{}]])
def test_a_header_cannot_pass_for_another_kind_of_file(legacy, tmp_path, run, value) -> None:
    path = tmp_path / "new.safetensors"
    lies = {"kind": "weights of allcnn_zoo", "bytes": 5, "tensors": value, "content": value}
    header = {"format_version": 1, **rescue_neon(legacy, path), **lies}
    save_file(load_file(path), path, {"neon_network": json.dumps(header)})
    facts = inspect_file(path)
    assert (facts["kind"], facts["bytes"]) == ("rescued neon network", path.stat().st_size)
    assert not facts.keys() & {"tensors", "content"}
    assert run("inspect", path)[0] == 0


def test_a_description_that_no_header_can_hold_is_one_error(tmp_path, run) -> None:
    texts = [f"{number} {'x' * 10_000_000}" for number in range(11)]
    tree = network_file(layer_record("Capsule", {"W": WEIGHT}, texts=texts))
    (tmp_path / "old.p").write_bytes(python3_pickle(tree))
    status, out, error = run("convert", tmp_path / "old.p", tmp_path / "new.safetensors")
    assert (status, out, error.count("\n")) == (1, "", 1)
    assert "new.safetensors" in error
    assert [path.name for path in tmp_path.iterdir()] == ["old.p"]


@pytest.mark.parametrize("name", ["a\0b.p", "x" * 300 + ".p", "x" * 300 + ".safetensors"])
def test_a_path_that_cannot_be_is_one_error(tmp_path, name) -> None:
    path = tmp_path / name
    attempts = (
        lambda: convert_neon(path, tmp_path / "new.safetensors"),
        lambda: rescue_neon(path, tmp_path / "new.safetensors"),
        lambda: inspect_file(path),
        lambda: allcnn_zoo.load(path),
    )
    for attempt in attempts:
        with pytest.raises(allcnn_zoo.AllCNNZooError):
            attempt()


def test_nothing_in_a_file_reaches_the_terminal_but_text(legacy, tmp_path, run) -> None:
    path, hostile = tmp_path / "new.safetensors", "\x1b]0;mine\x07"
    header = {"format_version": 1, **rescue_neon(legacy, path), hostile: {hostile: {hostile: 1}}}
    save_file(load_file(path), path, {"neon_network": json.dumps(header)})
    status, out, error = run("inspect", path)
    assert status == 0
    assert "mine" in out
    raw = path.read_bytes().replace(b'"F32"', b'"\x1bF2"')
    path.write_bytes(raw)
    error = run("inspect", path)[2]
    assert "\x1b" not in out + error


def test_a_model_that_contradicts_itself_is_refused_and_inspected(tmp_path) -> None:
    tree = network_file(layer_record("Linear", {"W": WEIGHT}, nout=7))
    (tmp_path / "old.p").write_bytes(python2_pickle(tree))
    report = inspect_file(tmp_path / "old.p")
    assert "damaged" in report["not_a_model"]
    assert report["content"]["inside"]
    with pytest.raises(NeonError, match=r"old\.p: layers\.0_Linear: damaged"):
        rescue_neon(tmp_path / "old.p", tmp_path / "new.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["old.p"]


def test_a_rescued_network_is_not_taken_for_weights_of_ours(legacy, tmp_path) -> None:
    with pytest.raises(NotAllCNNError):
        convert_neon(legacy, tmp_path / "new.safetensors")
    rescue_neon(legacy, tmp_path / "new.safetensors")
    with pytest.raises(CheckpointError, match=r"rescued neon network.*neon\.to_module"):
        allcnn_zoo.load(tmp_path / "new.safetensors")


# The command line.


def test_convert_falls_back_to_a_rescue_and_says_so(run, legacy, tmp_path) -> None:
    status, out, _ = run("convert", legacy, tmp_path / "new.safetensors")
    assert status == 0
    assert "a generic rescue" in out
    assert "not weights for this package" in out
    assert "not All-CNN-C" in out
    assert "layers.2_Capsule" in out
    _, report, _ = run("convert", legacy, tmp_path / "new.safetensors", "--json")
    assert report["kind"] == "rescued neon network"
    assert report["parameters"] == 12


def test_convert_prefers_weights_of_ours_unless_states_are_wanted(run, tmp_path) -> None:
    (tmp_path / "old.p").write_bytes(python2_pickle(neon_file()))
    destination = tmp_path / "new.safetensors"
    _, report, _ = run("convert", tmp_path / "old.p", destination, "--json")
    assert report["kind"] == "weights of allcnn_zoo"
    _, report, _ = run("convert", tmp_path / "old.p", destination, "--states", "--json")
    assert report["kind"] == "rescued neon network"
    assert "states.0.layers.1_Convolution.weight" in load_file(destination)


def test_inspect_shows_the_tree_of_a_neon_model_and_of_its_rescue(run, legacy, tmp_path) -> None:
    run("convert", legacy, tmp_path / "new.safetensors")
    for path in (legacy, tmp_path / "new.safetensors"):
        status, out, _ = run("inspect", path)
        assert status == 0
        lines = out.splitlines()
        layer = next(i for i, line in enumerate(lines) if "0_Linear" in line)
        assert "in_features 3, out_features 2" in lines[layer]
        assert "weight  2x3  float32" in lines[layer + 1]
        assert "NOT UNDERSTOOD" in out
        _, report, _ = run("inspect", path, "--json")
        assert report["layers"][0]["arrays"]["weight"] == {"shape": [2, 3], "dtype": "float32"}
    report = inspect_file(legacy)
    assert report["layers"][0]["neon_name"] == "Linear_7"
    assert report["total_array_bytes"] == 4 * WEIGHT.nbytes  # parameters and states
    assert report["parameters"] == 2 * WEIGHT.size


def test_inspect_outlines_any_other_pickle_in_bounded_size(run, tmp_path) -> None:
    tree = {"data": np.zeros((3, 4), np.uint8), "labels": list(range(1000)), "deep": [[["\x1b"]]]}
    (tmp_path / "batch").write_bytes(python3_pickle(tree))
    status, out, _ = run("inspect", tmp_path / "batch")
    assert status == 0
    assert "'data': a uint8 array of shape (3, 4)" in out
    assert "... and 980 more" in out
    assert "\x1b" not in out
    wide = {str(index): [list(range(20)) for _ in range(20)] for index in range(100)}
    (tmp_path / "wide").write_bytes(python3_pickle(wide))
    assert len(run("inspect", tmp_path / "wide")[1].splitlines()) < 1000


# Neon's own files.


@pytest.mark.filterwarnings("ignore:.*(neon 1.1|not CIFAR-10)")
def test_every_genuine_file_is_converted(run, shared, tmp_path, monkeypatch) -> None:
    # What the test of their weights says of them is tested elsewhere.
    monkeypatch.setattr("allcnn_zoo.from_neon.self_test", lambda _: [])
    files = sorted((shared / "neon").glob("[ag]*/*.p"))
    assert files
    for path in files:
        status, report, _ = run("convert", path, tmp_path / "new.safetensors", "--json")
        assert status == 0
        ours = path.parent.name in ("allcnn", "cifar10_allcnn")
        expected = "weights of allcnn_zoo" if ours else "rescued neon network"
        assert report["kind"] == expected, path
        assert run("inspect", path)[0] == run("inspect", tmp_path / "new.safetensors")[0] == 0
