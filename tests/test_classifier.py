"""Images in, labels and probabilities out."""

import collections
import copy
import pickle
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import torch
from PIL import Image

from allcnn_zoo import (
    AllCNN,
    Architecture,
    Classifier,
    Metadata,
    Prediction,
    Preprocessor,
    create_model,
)
from allcnn_zoo.architectures import CIFAR10_CLASSES
from allcnn_zoo.errors import AllCNNZooError, CheckpointError, ImageError
from allcnn_zoo.images import to_batch

from .conftest import EXAMPLES

SMALL = Architecture(widths=(4, 6))


@pytest.fixture
def model() -> AllCNN:
    torch.manual_seed(1)
    model = AllCNN(SMALL)
    model.weights = Metadata("random", SMALL, CIFAR10_CLASSES)
    return model


@pytest.fixture
def classifier(model) -> Classifier:
    return Classifier(model, batch_size=3)


def test_one_image_gives_one_prediction_and_several_a_list(classifier) -> None:
    cat, ship = EXAMPLES / "cat.png", EXAMPLES / "ship.png"
    one = classifier(cat)
    assert one.label in CIFAR10_CLASSES
    assert one.label == CIFAR10_CLASSES[one.index] == one.top[0][0]
    assert one.probability == one.top[0][1] >= one.top[1][1]
    assert classifier([cat, ship])[0].label == one.label
    assert isinstance(classifier([cat]), list)
    assert one.label in str(one)
    assert pickle.loads(pickle.dumps(one)) == copy.deepcopy(one) == one


@pytest.mark.parametrize("top_k", [1, 3, 99])
def test_top_k_lists_the_best_first(classifier, top_k: int) -> None:
    top = classifier(EXAMPLES / "dog.png", top_k=top_k).top
    assert len(top) == min(top_k, 10)
    assert [p for _, p in top] == sorted((p for _, p in top), reverse=True)


def test_an_image_is_prepared_once_and_a_network_copied_once(model, monkeypatch) -> None:
    calls = collections.Counter()

    def counted(name, function):
        def call(*arguments, **options):
            calls[name] += 1
            return function(*arguments, **options)

        return call

    monkeypatch.setattr("allcnn_zoo.classifier.to_batch", counted("to_batch", to_batch))
    monkeypatch.setattr(AllCNN, "__deepcopy__", counted("copy", deepcopied), raising=False)
    Classifier(model)(EXAMPLES / "cat.png")
    assert calls == {"to_batch": 1, "copy": 1}


def deepcopied(model: AllCNN, _: object) -> AllCNN:
    return pickle.loads(pickle.dumps(model))


@pytest.mark.parametrize("size", [(32, 32), (50, 70)])
def test_the_preprocessing_is_a_transform_of_a_data_set_of_pil_images(model, size) -> None:
    picture = Image.open(EXAMPLES / "cat.png").resize(size)
    transform = model.preprocess
    pixels, label = next(iter(torch.utils.data.DataLoader([(transform(picture), 3)], 1)))
    assert torch.equal(pixels, transform(to_batch(picture)))
    assert label == 3


def test_a_notebook_shows_names_and_bars() -> None:
    top = (("<b>cat</b> & dog", 0.75), ("ship", 0.25))  # class names come from files
    shown = Prediction("<b>cat</b> & dog", 0, 0.75, top)._repr_html_()
    table = ET.fromstring(shown)
    rows = [["".join(cell.itertext()) for cell in row] for row in table]
    assert rows == [["<b>cat</b> & dog", "", "75.0%"], ["ship", "", "25.0%"]]
    assert ["width:75.0%" in row[1][0].get("style") for row in table] == [True, False]


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_probabilities_are_the_softmax_of_the_logits_in_any_batching(model, count: int) -> None:
    images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        expected = model.eval()(model.preprocess(images)).softmax(1)
    for batch_size in (2, 100):
        result = Classifier(model, batch_size=batch_size).predict_proba(images)
        assert (result.shape, result.dtype) == ((count, 10), np.float32)
        np.testing.assert_allclose(result, expected, atol=1e-5)


@pytest.mark.parametrize("engine", ["torch", "onnxruntime", "openvino"])
def test_arrays_may_run_backwards(model, engine) -> None:
    pytest.importorskip(engine)
    images = np.random.default_rng(0).integers(0, 256, (5, 3, 32, 32), np.uint8)
    classifier = Classifier(model, engine=engine, batch_size=2)  # the last one is alone
    expected = classifier.predict_proba(images)
    for backwards in (images[::-1], images.transpose(0, 2, 3, 1)[::-1]):
        np.testing.assert_allclose(classifier.predict_proba(backwards)[::-1], expected, atol=1e-6)
    assert classifier(images[:1][::-1])[0].index == expected[0].argmax()


@pytest.mark.parametrize("surroundings", ["training", "autocast"])
def test_it_computes_the_same_wherever_it_is_asked(model, surroundings) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32), np.uint8)
    expected = Classifier(model).predict_proba(images)
    if surroundings == "training":
        assert np.array_equal(Classifier(model.train()).predict_proba(images), expected)
        assert model.training, "it is somebody's model in training"
    else:
        with torch.autocast("cpu", torch.bfloat16):
            assert np.array_equal(Classifier(model).predict_proba(images), expected)


def test_a_classifier_and_its_copies_are_of_the_network_as_it_was(model) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32), np.uint8)
    classifier = Classifier(model)
    expected = classifier.predict_proba(images)
    torch.nn.init.zeros_(model.classifier.weight)
    for each in (classifier, copy.deepcopy(classifier), pickle.loads(pickle.dumps(classifier))):
        assert np.array_equal(each.predict_proba(images), expected)


def test_a_stream_is_of_several_images(classifier) -> None:
    for one in (EXAMPLES / "cat.png", np.zeros((32, 32, 3), np.uint8)):
        with pytest.raises(ImageError, match="several images"):
            next(classifier.stream(one))


@pytest.mark.parametrize(
    "wrong",
    [
        "cat.png",
        [EXAMPLES / "cat.png"],
        *(np.zeros(shape, np.uint8) for shape in [(32, 32, 3), (3, 32, 32), (64, 100, 3)]),
    ],
    ids=str,
)
def test_what_is_no_batch_is_named(classifier, wrong) -> None:
    with pytest.raises(ImageError, match="is not a batch"):
        classifier.predict_proba(wrong)


def test_large_images_of_a_batch_become_small_like_any_other(classifier) -> None:
    large = np.random.default_rng(0).integers(0, 256, (7, 40, 50, 3), np.uint8)
    assert classifier(large) == classifier(list(large))


def test_of_equal_probabilities_the_first_class_comes_first(model) -> None:
    torch.nn.init.zeros_(model.classifier.weight)
    torch.nn.init.zeros_(model.classifier.bias)
    classifier = Classifier(model)
    prediction = classifier(EXAMPLES / "cat.png", top_k=10)
    assert [name for name, _ in prediction.top] == list(classifier.classes)


def test_a_subclass_of_the_preprocessor_is_what_runs(model) -> None:
    class Faint(Preprocessor):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward(images) * 0.1

    shipped = Preprocessor.shipped()
    model.preprocess = Faint(shipped.mean, shipped.matrix, shipped.fitted_with)
    batch = to_batch(EXAMPLES / "cat.png")
    with torch.no_grad():
        logits = model.eval()(model.preprocess(batch))
    expected = logits.softmax(1).numpy()
    np.testing.assert_allclose(Classifier(model).predict_proba(batch), expected, atol=1e-5)


@pytest.mark.parametrize(
    "make",
    [
        lambda model: Classifier(create_model("allcnn_c")),
        lambda model: Classifier("cifar10_best"),
        lambda model: Classifier(torch.nn.Flatten()),
        lambda model: Classifier(Classifier(model)),
        lambda model: Classifier(model, batch_size=0),
        lambda model: model.reset_classifier(3) or Classifier(model),
    ],
    ids=["untrained", "a name", "another module", "a classifier", "empty batches", "other classes"],
)
def test_what_cannot_classify_is_refused(model, make) -> None:
    with pytest.raises(AllCNNZooError):
        make(model)


@pytest.mark.parametrize("engine", ["torch", "openvino", "onnxruntime"])
def test_weights_that_are_finite_but_overflow_are_refused(model, engine) -> None:
    """Rather than `airplane nan%`."""
    if engine != "torch":
        pytest.importorskip(engine)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1e20)
    classifier = Classifier(model, engine=engine)
    for classify in (classifier, classifier.predict_proba, lambda x: next(classifier.stream(x))):
        with pytest.raises(CheckpointError, match="weights custom are too large"):
            classify(np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32), np.uint8))
