"""Every engine and precision agrees with the plain network, and leaves that network alone."""

import copy
import functools
import gc
import itertools
import pickle
import re
import subprocess
import sys
import weakref

import numpy as np
import onnx
import pytest
import torch

from allcnn_zoo import AllCNN, AllCNNZooError, Architecture, Classifier, Metadata, engines, load
from allcnn_zoo.cifar import CIFAR10, sample_images
from allcnn_zoo.engines import quantize
from allcnn_zoo.errors import ImageError, UnknownNameError
from allcnn_zoo.onnx_graph import to_onnx

from ..conftest import EXAMPLES

for package in ("openvino", "onnxruntime"):
    pytest.importorskip(package)

#: Engine, precision, and the largest and the mean difference of a probability to the plain
#: network's. What int8 leaves alone, which these do not show, has a test of its own below.
WAYS = [
    ("torch", "float32", 1e-5, 1e-6),
    ("torch", "bfloat16", 0.02, 1e-4),
    ("openvino", "float32", 1e-5, 1e-6),
    ("openvino", "bfloat16", 0.05, 1e-4),
    ("openvino", "int8", 0.15, 5e-4),
    ("onnxruntime", "float32", 1e-5, 1e-6),
    ("onnxruntime", "int8", 0.15, 5e-4),
]
ENGINES = ("torch", "openvino", "onnxruntime")
IMAGES = sample_images().images[:32]


@pytest.fixture(scope="module")
def best() -> AllCNN:
    return load("cifar10_best")


@pytest.fixture(scope="module")
def small() -> AllCNN:
    """A narrow, random network of another kind and number of classes."""
    torch.manual_seed(5)
    architecture = Architecture("convpool_cnn_c", 3, widths=(4, 6), last_padding=0)
    model = AllCNN(architecture).eval()
    model.weights = Metadata("random", architecture, ("a", "b", "c"))
    return model


@pytest.fixture(scope="module")
def expected(best) -> np.ndarray:
    return plain(best, IMAGES)


@pytest.fixture(scope="module")
def rounded(best) -> onnx.ModelProto:
    """The graph for int8."""
    return quantize(to_onnx(best))


@pytest.fixture(scope="module")
def opened(best, rounded):
    """Classifiers by engine and precision, each compiled once."""

    @functools.cache
    def opened(engine: str, precision: str = "float32") -> Classifier:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(engines, "quantize", lambda *_: rounded)
            return Classifier(best, engine=engine, precision=precision)

    return opened


def plain(model: AllCNN, images: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        logits = model(model.preprocess(torch.from_numpy(images)))
    return logits.softmax(dim=1).numpy()


@pytest.mark.parametrize(("engine", "precision", "most", "mean"), WAYS)
def test_every_engine_agrees_with_the_plain_network(
    opened, expected, engine: str, precision: str, most: float, mean: float
) -> None:
    classifier = opened(engine, precision)
    assert (classifier.engine, classifier.precision) == (engine, precision)
    assert f"{engine}, {precision}" in repr(classifier)
    together = np.abs(classifier.predict_proba(IMAGES) - expected)
    assert together.max() < most
    assert together.mean() < mean


@pytest.mark.parametrize("engine", ENGINES)
def test_images_may_come_one_by_one(opened, expected, engine: str) -> None:
    alone = np.concatenate([opened(engine).predict_proba(image[None]) for image in IMAGES[:3]])
    np.testing.assert_allclose(alone, expected[:3], atol=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_classifier_can_be_pickled_and_what_it_compiles_goes_with_it(
    opened, expected, engine
) -> None:
    twin = pickle.loads(pickle.dumps(opened(engine)))
    assert twin.engine == engine
    np.testing.assert_allclose(twin.predict_proba(IMAGES[:3]), expected[:3], atol=1e-5)
    compiled = weakref.ref(twin._engine.run)
    del twin
    gc.collect()
    assert compiled() is None


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
@pytest.mark.parametrize("engine", ENGINES)
def test_the_layout_of_a_batch_in_memory_changes_nothing(
    opened, expected, engine: str, layout: str
) -> None:
    images = LAYOUTS[layout](IMAGES[:3])
    np.testing.assert_allclose(opened(engine).predict_proba(images), expected[:3], atol=1e-5)


def test_engines_take_any_of_the_networks(small) -> None:
    for engine in ENGINES[1:]:
        result = Classifier(small, engine=engine).predict_proba(IMAGES[:5])
        np.testing.assert_allclose(result, plain(small, IMAGES[:5]), atol=1e-5)


def test_the_users_network_is_left_as_it_is(best) -> None:
    before = copy.deepcopy(best.state_dict())
    requires_grad = [p.requires_grad for p in best.parameters()]
    for precision in ("float32", "bfloat16"):
        Classifier(best, precision=precision).predict_proba(IMAGES[:3])
    for name, tensor in best.state_dict().items():
        assert tensor.dtype == torch.float32
        assert tensor.is_contiguous()
        assert torch.equal(tensor, before[name])
    assert [p.requires_grad for p in best.parameters()] == requires_grad


# Choosing.


@pytest.mark.parametrize(
    ("installed", "precision", "chosen"),
    [
        (("openvino", "onnxruntime", "onnx"), "float32", "openvino"),
        (("openvino", "onnxruntime", "onnx"), "int8", "openvino"),
        (("openvino", "onnx"), "bfloat16", "openvino"),
        (("onnxruntime", "onnx"), "float32", "onnxruntime"),
        (("onnxruntime", "onnx"), "bfloat16", "torch"),
        (("onnxruntime", "openvino"), "float32", "torch"),
        ((), "float32", "torch"),
    ],
)
def test_auto_is_the_fastest_that_is_installed_and_has_the_precision(
    monkeypatch, best, installed, precision, chosen
) -> None:
    monkeypatch.setattr(engines, "_RUNTIMES", ("openvino", "onnxruntime"))
    for package in {"openvino", "onnxruntime", "onnx"} - set(installed):
        monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(engines, "_open_runtime", lambda name, *_: name)
    engine = engines.open_engine(best, precision=precision)
    assert (engine if isinstance(engine, str) else engine.name) == chosen


def test_auto_is_pytorch_for_a_preprocessing_that_no_graph_holds(monkeypatch, best) -> None:
    monkeypatch.setattr(engines, "_RUNTIMES", ("openvino", "onnxruntime"))
    odd = copy.deepcopy(best)
    odd.preprocess = Halved()
    assert Classifier(odd).engine == "torch"


class Halved(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images / 2


@pytest.mark.parametrize(("has_bfloat16", "chosen"), [(True, "bfloat16"), (False, "float32")])
def test_auto_precision_is_what_processor_and_engine_do_well(
    monkeypatch, small, has_bfloat16: bool, chosen: str
) -> None:
    monkeypatch.setattr(engines, "has_fast_bfloat16", lambda _: has_bfloat16)
    monkeypatch.setattr(engines, "_open_runtime", lambda *arguments: arguments)
    assert Classifier(small, precision="auto").precision == chosen
    assert engines.open_engine(small, "onnxruntime", precision="auto")[2] == "float32"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"engine": "opnvino"}, UnknownNameError, "did you mean 'openvino'"),
        ({"precision": "float16"}, UnknownNameError, "no precision is called 'float16'"),
        ({"precision": "int8"}, AllCNNZooError, "engine='openvino' and engine='onnxruntime' do"),
        ({"engine": "openvino", "device": "meta"}, AllCNNZooError, "runs on the CPU only"),
        ({"engine": "onnxruntime", "precision": "bfloat16"}, AllCNNZooError, "not in bfloat16"),
        ({"device": "nowhere"}, AllCNNZooError, "cannot run on device 'nowhere'"),
        ({"device": "meta"}, AllCNNZooError, "cannot run on device 'meta'"),
        ({"device": 1.5}, AllCNNZooError, "cannot run on device '1.5'"),
        ({"calibration": IMAGES}, AllCNNZooError, "is for precision='int8'"),
        ({"threads": 0}, AllCNNZooError, "threads=0: at least 1"),
    ],
)
def test_what_is_unavailable_is_refused_at_once(best, arguments, error, message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        Classifier(best, **arguments)


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "openvino"])
@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_folder_or_file_of_a_packages_name_is_not_the_package(
    best, monkeypatch, tmp_path, package, kind
) -> None:
    namesake = tmp_path / (package if kind == "folder" else f"{package}.py")
    namesake.mkdir() if kind == "folder" else namesake.touch()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, package)
    engine = "openvino" if package == "openvino" else "onnxruntime"
    with pytest.raises(AllCNNZooError, match=r"pip install 'allcnn-zoo\[.*is not the package"):
        Classifier(best, engine=engine)
    monkeypatch.setattr(engines, "_RUNTIMES", (engine,))
    assert Classifier(best).engine == "torch"
    monkeypatch.delitem(sys.modules, package)


# Threads, processes, memory.


@pytest.mark.parametrize("threads", [None, 1, 2, 10**15])
def test_threads_are_those_asked_for_within_what_is_allowed_and_restored(
    monkeypatch, small, threads
) -> None:
    most = 2
    monkeypatch.setattr(engines, "usable_cores", lambda: most)
    seen = []
    real = torch.nn.Conv2d.forward

    def spy(self, *inputs):
        seen.append(torch.get_num_threads())
        return real(self, *inputs)

    monkeypatch.setattr(torch.nn.Conv2d, "forward", spy)
    before, state = torch.get_num_threads(), torch.get_rng_state()
    classifier = Classifier(small, threads=threads)
    for count in (1, 5):
        classifier.predict_proba(IMAGES[:count])
    assert set(seen) == {min(threads or before, most)}
    assert torch.get_num_threads() == before
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", ENGINES[1:])
def test_runtimes_take_no_more_threads_than_this_process_may_use(monkeypatch, best, name) -> None:
    monkeypatch.setattr(engines, "usable_cores", lambda: 1)
    monkeypatch.setattr(engines, "_open_runtime", lambda *arguments: arguments)
    assert engines.open_engine(best, name, threads=64)[3] == 1


PROCESSES = """
import os, signal, sys
import numpy as np
import torch
from allcnn_zoo import AllCNN, Architecture, Classifier, Metadata, Preprocessor
from allcnn_zoo.preprocessing import WhiteningParameters

signal.signal(signal.SIGINT, lambda *_: print("handled"))
architecture = Architecture(num_classes=3, widths=(4, 6))
model = AllCNN(architecture).eval()
model.weights = Metadata("random", architecture, ("a", "b", "c"))
model.preprocess = Preprocessor(torch.zeros(3072), torch.eye(3072), WhiteningParameters())
if os.fork() == 0:
    signal.alarm(60)
    Classifier(model, engine="torch")(np.zeros((32, 32, 3), np.uint8))
    print("loaded", flush=True)
    sys.exit()
os.wait()
images = np.random.default_rng(0).integers(0, 256, (32, 3, 32, 32), np.uint8)
for engine in sys.argv[1:]:
    classifier, other = (Classifier(model, engine=engine) for _ in range(2))
    expected = classifier.predict_proba(images)
    other.predict_proba(images[:1])
    process = os.fork()
    if process == 0:
        signal.alarm(60)  # instead of hanging for ever
        new = Classifier(model, engine=engine, threads=2)
        for each, count in ((classifier, 32), (classifier, 1), (new, 32)):
            found = each.predict_proba(images[:count])
            np.testing.assert_allclose(found, expected[:count], atol=1e-5)
        sys.exit()  # the interpreter ends, and destroys what was compiled
    print(engine, os.waitpid(process, 0)[1])
    del classifier
    del other
    signal.raise_signal(signal.SIGINT)
"""


def test_a_forked_process_classifies_and_ends_and_signals_are_handled_whatever_was_done() -> None:
    words = [sys.executable, "-W", "ignore", "-c", PROCESSES, *ENGINES]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout.split("\n")[:-1] == [
        "loaded",
        *(line for engine in ENGINES for line in (f"{engine} 0", "handled")),
    ], done.stderr


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
    with pytest.raises(ImageError, match=r"nothing\.png"):
        list(classifier.stream(["nothing.png"]))


# int8.


def test_the_images_for_calibration_are_training_images(real_cifar10) -> None:
    calibration = sample_images().images[:128]
    np.testing.assert_array_equal(calibration, CIFAR10(real_cifar10).train.images[:128])


def test_int8_is_per_channel_and_leaves_the_first_and_the_last_convolution_alone(best) -> None:
    graph = quantize(to_onnx(best), IMAGES[:8]).graph
    constants = {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}
    sources = {name: node for node in graph.node for name in node.output}
    kernels = {
        node.name: sources.get(node.input[1]) for node in graph.node if node.op_type == "Conv"
    }
    assert [name for name, kernel in kernels.items() if kernel is None] == ["conv1", "classifier"]
    for number in range(2, 9):
        scales = constants[kernels[f"conv{number}"].input[1]]
        assert len(np.unique(scales)) > 50
    rounded = [sources[node.input[0]].op_type for node in graph.node if "Quant" in node.op_type]
    assert "Conv" not in rounded, "its ReLU comes first, and is computed in the convolution itself"


@pytest.mark.parametrize(("has_bfloat16", "kind"), [(True, "bf16"), (False, "f32")])
def test_int8_leaves_the_rest_in_what_the_processor_does_well(
    monkeypatch, best, has_bfloat16: bool, kind: str
) -> None:
    monkeypatch.setattr(engines, "has_fast_bfloat16", lambda: has_bfloat16)
    monkeypatch.setattr(engines, "quantize", lambda graph, _: graph)
    classifier = Classifier(best, engine="openvino", precision="int8")
    assert classifier._engine.run.settings["INFERENCE_PRECISION_HINT"] == kind


def test_int8_learns_its_ranges_from_images_of_ones_own(best, opened) -> None:
    faint = np.random.default_rng(0).integers(100, 102, (8, 3, 32, 32), dtype=np.uint8)
    odd = Classifier(best, engine="onnxruntime", precision="int8", calibration=faint)
    usual = opened("onnxruntime", "int8").predict_proba(IMAGES[:16])
    assert np.abs(usual - odd.predict_proba(IMAGES[:16])).max() > 0.001
