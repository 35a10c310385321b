"""Every engine and precision says what the plain network says, and leaves that network alone."""

import copy
import gc
import itertools
import pickle
import re
import weakref

import numpy as np
import pytest
import torch

from allcnn_zoo import AllCNN, AllCNNZooError, Architecture, Classifier, Metadata, load, machine
from allcnn_zoo.architectures import CIFAR10_CLASSES
from allcnn_zoo.cifar import CIFAR10
from allcnn_zoo.engines.quantization import shipped_calibration
from allcnn_zoo.errors import ImageError, UnknownNameError

from ..conftest import EXAMPLES

#: Engine, precision, and the largest difference of a probability to the plain network's.
WAYS = [
    ("torch", "float32", 1e-5),
    ("torch", "bfloat16", 0.1),
    ("openvino", "float32", 1e-5),
    ("openvino", "bfloat16", 0.1),
    ("openvino", "int8", 0.2),
    ("onnxruntime", "float32", 1e-5),
    ("onnxruntime", "int8", 0.2),
]


@pytest.fixture(scope="module")
def best() -> AllCNN:
    return load("cifar10_best")


@pytest.fixture(scope="module")
def expected(best) -> np.ndarray:
    return plain(best, shipped_calibration()[:64])


def plain(model: AllCNN, images: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        logits = model(model.preprocess(torch.from_numpy(images)))
    return (logits / model.weights.temperature).softmax(dim=1).numpy()


@pytest.mark.parametrize(("engine", "precision", "tolerance"), WAYS)
def test_every_engine_agrees_with_the_plain_network(
    best, expected, engine: str, precision: str, tolerance: float
) -> None:
    if engine != "torch":
        pytest.importorskip(engine)
        pytest.importorskip("onnx")
    images = shipped_calibration()[:64]
    classifier = Classifier(
        best,
        engine=engine,
        precision=precision,
        batch_size=16,
        threads=2,
        calibration=images if precision == "int8" else None,
    )
    assert classifier.precision == precision
    together = classifier.predict_proba(images)
    np.testing.assert_allclose(together, expected, atol=tolerance)
    assert np.mean(together.argmax(1) == expected.argmax(1)) >= 0.95
    alone = np.concatenate([classifier.predict_proba(image[None]) for image in images[:3]])
    np.testing.assert_allclose(alone, expected[:3], atol=tolerance)
    twin = pickle.loads(pickle.dumps(classifier))
    few = classifier.predict_proba(images[:3])
    np.testing.assert_allclose(twin.predict_proba(images[:3]), few, atol=1e-5)


def read_only(images: np.ndarray) -> np.ndarray:
    images = images.copy()
    images.flags.writeable = False
    return images


LAYOUTS = {
    "read only": read_only,
    "with gaps": lambda images: images.repeat(2, axis=0)[::2],
    "in Fortran's order": np.asfortranarray,
    "channels last": lambda images: np.ascontiguousarray(images.transpose(0, 2, 3, 1)),
    "channels last, turned": lambda images: images.transpose(0, 2, 3, 1),
    "a tensor": lambda images: torch.from_numpy(images.copy()),
    "a tensor, channels last": lambda images: torch.from_numpy(images.copy()).to(
        memory_format=torch.channels_last
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("engine", ["torch", "openvino", "onnxruntime"])
def test_the_layout_of_a_batch_in_memory_changes_nothing(
    best, expected, engine: str, layout: str
) -> None:
    if engine != "torch":
        pytest.importorskip(engine)
        pytest.importorskip("onnx")
    classifier = Classifier(best, engine=engine, batch_size=2)
    images = LAYOUTS[layout](shipped_calibration()[:3])
    np.testing.assert_allclose(classifier.predict_proba(images), expected[:3], atol=1e-5)


@pytest.mark.parametrize("name", ["base_a", "strided_cnn_b", "convpool_cnn_c", "allcnn_b"])
@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_engines_take_any_of_the_networks(name: str, engine: str) -> None:
    pytest.importorskip(engine)
    pytest.importorskip("onnx")
    torch.manual_seed(5)
    architecture = Architecture(name, 3, widths=(4, 6), last_padding=0)
    model = AllCNN(architecture).eval()
    model.weights = Metadata("random", architecture, ("a", "b", "c"), temperature=0.7)
    images = shipped_calibration()[:5]
    result = Classifier(model, engine=engine).predict_proba(images)
    np.testing.assert_allclose(result, plain(model, images), atol=1e-5)


def test_the_users_network_is_left_as_it_is(best) -> None:
    before = copy.deepcopy(best.state_dict())
    requires_grad = [p.requires_grad for p in best.parameters()]
    Classifier(best, precision="bfloat16").predict_proba(shipped_calibration()[:3])
    for name, tensor in best.state_dict().items():
        assert tensor.dtype == torch.float32
        assert tensor.is_contiguous()
        assert torch.equal(tensor, before[name])
    assert [p.requires_grad for p in best.parameters()] == requires_grad


@pytest.mark.parametrize(("has_bfloat16", "chosen"), [(True, "bfloat16"), (False, "float32")])
def test_auto_is_what_the_processor_does_well(
    monkeypatch, best, has_bfloat16: bool, chosen: str
) -> None:
    monkeypatch.setattr(machine, "has_fast_bfloat16", lambda: has_bfloat16)
    assert Classifier(best, precision="auto").precision == chosen


def test_auto_is_what_the_engine_has(monkeypatch, best) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    monkeypatch.setattr(machine, "has_fast_bfloat16", lambda: True)
    assert Classifier(best, engine="onnxruntime", precision="auto").precision == "float32"


def test_what_was_compiled_goes_with_its_classifier(best) -> None:
    pytest.importorskip("openvino")
    pytest.importorskip("onnx")
    classifier = Classifier(best, engine="openvino")
    classifier.predict_proba(shipped_calibration()[:1])
    compiled = weakref.ref(classifier._engine.run)
    del classifier
    gc.collect()
    assert compiled() is None


@pytest.mark.parametrize("threads", [1, 2, 3, 10**15])
@pytest.mark.parametrize("count", [1, 2, 5, 64])
def test_the_number_of_threads_changes_nothing_but_the_time(
    best, expected, threads: int, count: int
) -> None:
    classifier = Classifier(best, threads=threads)
    before = torch.get_num_threads()
    result = classifier.predict_proba(shipped_calibration()[:count])
    np.testing.assert_allclose(result, expected[:count], atol=1e-5)
    assert torch.get_num_threads() == before


def test_a_stream_is_classified_as_it_comes(best) -> None:
    taken = itertools.count()
    names = sorted(EXAMPLES.glob("*.png"))

    def endless():
        for path in itertools.cycle(names):
            next(taken)
            yield path

    classifier = Classifier(best, batch_size=2)
    predictions = list(itertools.islice(classifier.stream(endless(), top_k=2), 3))
    for prediction, path in zip(predictions, names, strict=False):
        assert prediction.label == classifier(path).label
        assert len(prediction.top) == 2
    assert next(taken) < 30
    assert list(classifier.stream([])) == []


def test_a_stream_says_which_image_is_none(best) -> None:
    with pytest.raises(ImageError, match=r"nothing\.png"):
        list(Classifier(best).stream(["nothing.png"]))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"engine": "opnvino"}, UnknownNameError, "did you mean 'openvino'"),
        ({"precision": "float16"}, UnknownNameError, "no precision is called 'float16'"),
        ({"precision": "int8"}, AllCNNZooError, "engine='openvino' and engine='onnxruntime' do"),
        ({"engine": "openvino", "device": "meta"}, AllCNNZooError, "runs on the CPU only"),
        ({"engine": "onnxruntime", "precision": "bfloat16"}, AllCNNZooError, "has no bfloat16"),
        ({"device": "nowhere"}, AllCNNZooError, "cannot run on device 'nowhere'"),
        ({"device": "meta"}, AllCNNZooError, "cannot run on device 'meta'"),
        ({"device": 1.5}, AllCNNZooError, "cannot run on device '1.5'"),
        ({"calibration": shipped_calibration()}, AllCNNZooError, "is for precision='int8'"),
        ({"threads": 0}, AllCNNZooError, "threads=0: at least 1"),
    ],
)
def test_what_cannot_be_had_is_said_at_once(best, arguments, error, message: str) -> None:
    if arguments.get("engine") == "onnxruntime":
        pytest.importorskip("onnxruntime")
    with pytest.raises(error, match=re.escape(message)):
        Classifier(best, **arguments)


def test_the_images_for_calibration_are_training_images(real_cifar10) -> None:
    np.testing.assert_array_equal(shipped_calibration(), CIFAR10(real_cifar10).train.images[:128])


@pytest.mark.parametrize("has_bfloat16", [True, False])
def test_int8_leaves_the_rest_in_what_the_processor_does_well(
    monkeypatch, best, expected, has_bfloat16: bool
) -> None:
    pytest.importorskip("openvino")
    pytest.importorskip("onnx")
    monkeypatch.setattr(machine, "has_fast_bfloat16", lambda: has_bfloat16)
    classifier = Classifier(best, engine="openvino", precision="int8", batch_size=64)
    found = classifier.predict_proba(shipped_calibration()[:64])
    np.testing.assert_allclose(found, expected, atol=0.2)


def test_int8_learns_its_ranges_from_images_of_ones_own(best) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    faint = np.random.default_rng(0).integers(100, 102, (8, 3, 32, 32), dtype=np.uint8)
    images = shipped_calibration()[:16]
    settings = {"engine": "onnxruntime", "precision": "int8"}
    usual, odd = (
        Classifier(best, **settings, calibration=calibration).predict_proba(images)
        for calibration in (images, faint)
    )
    assert np.abs(usual - odd).max() > 0.01
    assert Classifier(best).classes == CIFAR10_CLASSES
