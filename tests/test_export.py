"""One file for other runtimes: it says what the classifier says, and is checked first."""

import copy
import dataclasses
import json
import os
import re
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

import allcnn_zoo
from allcnn_zoo import AllCNN, Architecture, Classifier, Metadata, Preprocessor, export
from allcnn_zoo.cli import main
from allcnn_zoo.errors import AllCNNZooError, ExportError
from allcnn_zoo.export import Exported
from allcnn_zoo.images import to_batch
from allcnn_zoo.onnx_graph import import_package, to_onnx
from allcnn_zoo.preprocessing import contrast_normalize

from .conftest import EXAMPLES

onnxruntime = import_package("onnxruntime")  # without its telemetry


@pytest.fixture(scope="module")
def shipped() -> Preprocessor:
    return Preprocessor.shipped()


@pytest.fixture(scope="module")
def make():
    """A small random network that carries weights."""

    def make(name: str = "allcnn_c", *, batch_norm: bool = False, **options) -> AllCNN:
        torch.manual_seed(0)
        architecture = Architecture(name, widths=(6, 8), **options)
        model = AllCNN(architecture, batch_norm=batch_norm)
        classes = tuple(f"class {i}" for i in range(architecture.num_classes))
        model.weights = Metadata("random", architecture, classes)
        return model

    return make


@pytest.fixture(scope="module")
def best() -> AllCNN:
    return allcnn_zoo.load("cifar10_best")


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """The ten example images, noise, and one of a single gray."""
    noise = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32), dtype=np.uint8)
    gray = np.full((1, 3, 32, 32), 200, np.uint8)
    return np.concatenate([to_batch(sorted(EXAMPLES.glob("*.png"))).numpy(), noise, gray])


def open_onnx(source: bytes | Path | str):
    return onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])


def run_onnx(model: AllCNN, images: np.ndarray, **options) -> list[np.ndarray]:
    content = allcnn_zoo.to_onnx(model, **options).SerializeToString()
    return open_onnx(content).run(None, {"images": images})


NETWORKS = [
    {"name": name, "last_padding": i % 2, "final_relu": i % 2 > 0, "num_classes": 1 + i}
    for i, name in enumerate(["base_a", "strided_cnn_b", "convpool_cnn_c", "allcnn_a"])
]


@pytest.mark.parametrize("options", NETWORKS, ids=lambda options: options["name"])
def test_every_network_says_in_onnx_what_the_classifier_says(make, images, options) -> None:
    model = make(**options)
    (probabilities,) = run_onnx(model, images)
    assert probabilities.dtype == np.float32
    assert probabilities.shape == (len(images), options["num_classes"])
    np.testing.assert_allclose(probabilities, Classifier(model).predict_proba(images), atol=1e-5)


@pytest.fixture(scope="module")
def exported(best, tmp_path_factory) -> Exported:
    return allcnn_zoo.export_model(best, tmp_path_factory.mktemp("export") / "best.onnx")


@pytest.mark.parametrize(("least", "largest"), [(1e-8, 1), (1000.0, 50)])
def test_what_the_network_sees_can_be_had_too(make, shipped, images, least, largest) -> None:
    """Images below the smallest divisor are not scaled."""
    parameters = dataclasses.replace(shipped.fitted_with, gcn_min_divisor=least)
    model = make()
    model.preprocess = Preprocessor(shipped.mean, shipped.matrix, parameters)
    _, whitened = run_onnx(model, images, whitened=True)
    assert np.abs(whitened).max() > largest
    expected = model.preprocess(torch.from_numpy(images))
    np.testing.assert_allclose(whitened, expected, rtol=1e-4, atol=1e-3)


@pytest.fixture(scope="module")
def session(best):
    """The graph, with one more output: what the whitening matrix is multiplied with."""
    graph = allcnn_zoo.to_onnx(best)
    (product,) = (node for node in graph.graph.node if node.op_type == "MatMul")
    graph.graph.output.append(onnx.ValueInfoProto(name=product.input[0]))
    return open_onnx(graph.SerializeToString())


def in_float64(model: AllCNN, images: np.ndarray) -> np.ndarray:
    """The probabilities, preprocessed in double precision: of low contrast float32 loses some."""
    preprocess = model.preprocess
    rows = contrast_normalize(images.reshape(len(images), -1).astype(float), preprocess.fitted_with)
    whitened = (rows - preprocess.mean.numpy()) @ preprocess.matrix.double().numpy()
    with torch.no_grad():
        logits = model(torch.from_numpy(whitened).float().view(images.shape))
    return logits.softmax(dim=1).numpy()


@given(
    base=st.integers(0, 255),
    contrast=st.sampled_from([0, 1, 2, 5, 30, 255]),
    share=st.sampled_from([0.0, 0.0004, 0.01, 0.5, 1.0]),
    seed=st.integers(0, 999),
)
@settings(max_examples=12)
@example(base=128, contrast=1, share=0.0004, seed=999)
def test_nothing_is_left_for_bfloat16_to_spoil_in_images_of_any_contrast(
    best, session, base: int, contrast: int, share: float, seed: int
) -> None:
    random = np.random.default_rng(seed)
    noise = random.integers(-contrast, contrast, (1, 3, 32, 32), endpoint=True)
    noise *= random.random(noise.shape) < share
    pixels = np.clip(base + noise, 0, 255).astype(np.uint8)
    probabilities, factor = session.run(None, {"images": pixels})
    np.testing.assert_allclose(probabilities, in_float64(best, pixels), atol=5e-3)
    exact = torch.from_numpy(factor)
    assert torch.equal(exact, exact.bfloat16().float())


def test_half_of_the_matrix_is_enough_and_can_be_rounded(best, images, exported, tmp_path) -> None:
    matrix = 4 * 3072**2
    small = allcnn_zoo.export_model(best, tmp_path / "small.onnx", whitening="float16")
    assert exported.whitening_bytes == pytest.approx(matrix / 2, rel=0.01)
    assert small.whitening_bytes == pytest.approx(matrix / 4, rel=0.01)
    (result,) = open_onnx(tmp_path / "small.onnx").run(None, {"images": images})
    np.testing.assert_allclose(result, Classifier(best).predict_proba(images), atol=5e-3)


def test_a_matrix_that_is_not_symmetric_is_refused(make, shipped, tmp_path) -> None:
    model = make()
    lopsided = Preprocessor(shipped.mean, shipped.matrix.triu(), shipped.fitted_with)
    model.preprocess = lopsided
    with pytest.raises(ExportError, match="differs from the model"):
        allcnn_zoo.export_model(model, tmp_path / "small.onnx")


def test_batch_normalisation_is_folded(make, images) -> None:
    model = make(batch_norm=True)
    operators = {node.op_type for node in allcnn_zoo.to_onnx(model).graph.node}
    assert "BatchNormalization" not in operators
    (probabilities,) = run_onnx(model, images)
    np.testing.assert_allclose(probabilities, Classifier(model).predict_proba(images), atol=1e-4)


def test_layers_and_tensors_keep_their_names(best) -> None:
    graph = allcnn_zoo.to_onnx(best).graph
    convolutions = [node.name for node in graph.node if node.op_type == "Conv"]
    assert convolutions == [*(f"conv{i}" for i in range(1, 9)), "classifier"]
    constants = {constant.name: constant for constant in graph.initializer}
    weight = onnx.numpy_helper.to_array(constants["conv3.weight"])
    assert np.array_equal(weight, best.features.conv3.weight.detach())


def test_labels_and_provenance_travel_with_it(make, best, exported, tmp_path) -> None:
    model = make(num_classes=2)
    model.save(tmp_path / "mine.safetensors", classes=("Katze", "großes Schiff"))
    own = allcnn_zoo.load(tmp_path / "mine.safetensors")
    for weights, file in (
        (best.weights, exported.file),
        (own.weights, allcnn_zoo.export_model(own, tmp_path / "mine.onnx").file),
    ):
        found = open_onnx(file).get_modelmeta().custom_metadata_map
        assert json.loads(found["classes"]) == list(weights.classes)
        assert json.loads(found["provenance"]) == weights.provenance
        assert json.loads(found["metrics"]) == weights.metrics
        assert json.loads(found["architecture"])["name"] == "allcnn_c"
        assert found["tag"] == weights.tag
        assert found["preprocessing"] == "cifar10_gcn_zca"
        assert found["allcnn_zoo_version"] == allcnn_zoo.__version__


def test_equal_models_give_equal_bytes(make, tmp_path) -> None:
    for name in ("a", "b"):
        allcnn_zoo.export_model(make(), tmp_path / f"{name}.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert {path.name for path in tmp_path.glob("*.onnx*")} == {"a.onnx", "b.onnx"}


def test_pt2_runs_any_batch_in_torch_and_carries_its_labels(make, images, tmp_path) -> None:
    model = make()
    path = tmp_path / "small.pt2"
    exported = allcnn_zoo.export_model(model, path, whitened=True)
    assert exported.bytes == path.stat().st_size
    assert exported.largest_difference < 1e-5
    extra = {"classes": "", "tag": ""}
    program = torch.export.load(path, extra_files=extra).module()
    expected = Classifier(model).predict_proba(images)
    for count in (1, 3, len(images)):
        probabilities, whitened = program(torch.from_numpy(images[:count]))
        np.testing.assert_allclose(probabilities.detach(), expected[:count], atol=1e-5)
        assert whitened.shape == (count, 3, 32, 32)
    assert json.loads(extra["classes"]) == list(model.weights.classes)
    assert extra["tag"] == "random"
    with zipfile.ZipFile(path) as archive:
        program = next(name for name in archive.namelist() if name.endswith("model.json"))
        assert os.fsencode(Path(allcnn_zoo.__file__).parent) not in archive.read(program)


def test_the_command_writes_the_file_and_reports(tmp_path, capsys) -> None:
    out = tmp_path / "best.onnx"
    words = ["export", str(out), "--weights", "cifar10_best", "--whitened"]
    assert main([*words, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["file"] == str(out)
    assert report["bytes"] == out.stat().st_size
    parts = [report[f"{part}_bytes"] for part in ("weight", "whitening", "other")]
    assert sum(parts) == report["bytes"]
    assert parts[0] == 4 * 1_369_738
    assert 0 < parts[2] < 50_000
    assert report["largest_difference"] < 1e-4
    assert [output.name for output in open_onnx(out).get_outputs()] == ["probabilities", "whitened"]


def test_what_does_not_agree_with_the_model_is_not_written(make, tmp_path, monkeypatch) -> None:
    def wrong(model, **options):
        model = copy.deepcopy(model)
        with torch.no_grad():
            model.classifier.bias[3] += 1
        return to_onnx(model, **options)

    model = make()
    monkeypatch.setattr(export, "to_onnx", wrong)
    path = tmp_path / "broken.onnx"
    path.write_text("what was here before")
    with pytest.raises(ExportError, match="nothing was written"):
        allcnn_zoo.export_model(model, path)
    assert path.read_text() == "what was here before"
    assert list(tmp_path.glob("*broken*")) == [path]


@pytest.mark.parametrize(
    ("change", "name", "whitening", "message"),
    [
        *(
            (None, name, "float32", r"choose \.onnx or \.pt2")
            for name in ("model.h5", "model", "m.ONNX")
        ),
        (None, "small.onnx", "int8", "whitening='int8'"),
        (None, "small.pt2", "float16", "whitening='float16'"),
        (None, "nowhere/small.onnx", "float32", "nowhere"),
        (lambda m: m.reset_classifier(3), "small.onnx", "float32", "weights are random"),
        (lambda m: setattr(m, "preprocess", nn.Identity()), "small.onnx", "float32", "Identity"),
    ],
)
def test_what_cannot_be_exported_is_refused(
    make, tmp_path, change, name, whitening, message
) -> None:
    model = make()
    if change:
        change(model)
    kind = OSError if message == "nowhere" else AllCNNZooError
    with pytest.raises(kind, match=message):
        allcnn_zoo.export_model(model, tmp_path / name, whitening=whitening)
    assert not list(tmp_path.iterdir())


class Scaled(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.float() / 255


def test_pt2_takes_any_preprocessing_and_names_it(make, tmp_path) -> None:
    model = make()
    model.preprocess = Scaled()
    allcnn_zoo.export_model(model, tmp_path / "small.pt2")
    facts = {"preprocessing": "", "metrics": ""}
    program = torch.export.load(tmp_path / "small.pt2", extra_files=facts).module()
    assert (facts["preprocessing"], facts["metrics"]) == ("Scaled", "{}")
    image = torch.full((1, 3, 32, 32), 9, dtype=torch.uint8)
    assert not program(image)[0].requires_grad


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_missing_package_is_named_with_its_remedy(make, tmp_path, monkeypatch, package) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        ExportError, match=rf"{package} is needed: pip install 'allcnn-zoo\[export\]'"
    ):
        allcnn_zoo.export_model(make(), tmp_path / "small.onnx")
    assert not list(tmp_path.glob("*small*"))


def test_the_python_of_its_page_runs_from_top_to_bottom(tmp_path, monkeypatch, capsys) -> None:
    (tmp_path / "examples").symlink_to(EXAMPLES.parent)
    monkeypatch.chdir(tmp_path)
    page = (EXAMPLES.parents[1] / "docs" / "export.md").read_text()
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(block, "export.md", "exec"), names)
    assert capsys.readouterr().out.split()[-3:] == ["ship"] * 3
