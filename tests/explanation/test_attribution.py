"""Attribution of an activation to the image."""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from allcnn_zoo import AllCNN, AllCNNZooError, FeatureMap, explain, fold_batch_norm, list_models
from allcnn_zoo.architectures import CIFAR10_CLASSES
from allcnn_zoo.errors import ArchitectureError, ImageError, UnknownNameError
from allcnn_zoo.explanation import METHODS, receptive_fields
from allcnn_zoo.explanation.attribution import layers, run

from ..conftest import EXAMPLES
from .by_hand import class_signal, unit_signal


def assert_equal(signal, expected) -> None:
    assert signal.dtype == expected.dtype
    assert expected.abs().max() > 0
    assert (signal - expected).abs().max() <= 1e-9 * expected.abs().max()


@pytest.mark.parametrize("name", list_models())
@pytest.mark.parametrize("method", METHODS)
def test_a_class_is_explained_as_by_hand(network, images, name, method) -> None:
    final_relu = name.endswith("c") or method == "guided"
    model = network(name, final_relu=final_relu, last_padding=int(final_relu))
    whitened = model.preprocess(images).double()
    alive = int((model(whitened) > 0).all(dim=0).nonzero()[0])
    expected = class_signal(model, whitened, alive, method)
    assert_equal(explain(model, images, alive, method=method), expected)


@given(data=st.data(), name=st.sampled_from(list_models()), method=st.sampled_from(METHODS))
@settings(max_examples=15)
def test_any_activation_is_explained_as_by_hand(network, images, data, name, method) -> None:
    model = network(name)
    whitened = model.preprocess(images).double()
    outputs = dict(run(model, whitened))
    layer = data.draw(st.sampled_from([layer for layer in outputs if layer != "dropout0"]))
    _, *shape = outputs[layer].shape
    channel, *position = (data.draw(st.integers(0, count - 1)) for count in shape)
    expected = unit_signal(model, whitened, layer, channel, *position, method)
    signal = explain(model, images, FeatureMap(layer, channel, tuple(position)), method=method)
    torch.testing.assert_close(signal, expected, rtol=0, atol=1e-9 * expected.abs().max().item())
    # And nothing outside the receptive field has a part in it.
    rows, columns = (receptive_fields(model)[layer].window(place, 32) for place in position)
    signal[:, :, rows, columns] = 0
    assert not signal.any()


def test_without_a_target_it_is_the_most_probable_class(network, images) -> None:
    model = network()
    predicted = model(model.preprocess(images).double()).argmax(dim=1)
    for image, number, signal in zip(
        images, predicted.tolist(), explain(model, images), strict=True
    ):
        torch.testing.assert_close(signal, explain(model, image, number)[0])
        torch.testing.assert_close(signal, explain(model, image, CIFAR10_CLASSES[number])[0])


def test_without_a_channel_or_position_it_is_the_most_active_one(network, images) -> None:
    model = network()
    maps = dict(run(model, model.preprocess(images).double()))["conv5"]
    for image, its_maps in zip(images, maps, strict=True):
        channel, row, column = (int(place) for place in (its_maps == its_maps.max()).nonzero()[0])
        exact = explain(model, image, FeatureMap("conv5", channel, (row, column)))
        assert torch.equal(explain(model, image, FeatureMap("conv5")), exact)
        assert torch.equal(explain(model, image, FeatureMap("conv5", channel)), exact)


@pytest.mark.parametrize("target", [FeatureMap("conv1"), FeatureMap("conv1", 1)])
def test_of_equal_activations_one_alone_is_explained(network, monkeypatch, target) -> None:
    model = network()
    gray = property(lambda self: torch.zeros_like)  # makes all activations of a map equal
    monkeypatch.setattr(AllCNN, "preprocess", gray)
    signal = explain(model, np.zeros((3, 32, 32), np.uint8), target)[0]
    rows, columns = signal.abs().sum(dim=0).nonzero().unbind(dim=1)
    assert len(rows) > 0
    assert rows.max() - rows.min() < 3
    assert columns.max() - columns.min() < 3


@pytest.mark.parametrize("name", ["allcnn_c", "base_c"])
def test_without_max_pooling_the_deconvnet_sees_no_image(network, images, name) -> None:
    """Why there is guided backpropagation (section 3.4): switches are all that it knows."""
    signals = explain(network(name), images, 0, method="deconvnet")
    alike = torch.allclose(signals[0], signals[1], rtol=1e-9, atol=0)
    assert alike == (name == "allcnn_c")


def test_any_kind_of_image_will_do(network) -> None:
    model, path = network(), EXAMPLES / "cat.png"
    assert explain(model, path).shape == (1, 3, 32, 32)
    assert torch.equal(explain(model, [path, str(path)])[1:], explain(model, path))


def fingerprint(model) -> bytes:
    """Everything about a model that a caller could notice."""
    state = {name: tensor.numpy().tobytes() for name, tensor in model.state_dict().items()}
    gradients = [p.grad if p.grad is None else p.grad.numpy() for p in model.parameters()]
    flags = [(p.requires_grad, p.dtype, p.data_ptr()) for p in model.parameters()]
    modes = [(name, type(module), module.training) for name, module in model.named_modules()]
    hooks = [
        (len(module._forward_hooks), len(module._backward_hooks), len(module._forward_pre_hooks))
        for module in model.modules()
    ]
    rng = torch.get_rng_state().numpy().tobytes()
    return pickle.dumps([state, gradients, flags, modes, hooks, rng])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("batch_norm", [False, True])
def test_the_model_stays_as_it_was(network, images, method, batch_norm) -> None:
    model = network(batch_norm=batch_norm).train()
    model.features.dropout1.eval()
    model.classifier.requires_grad_(False)
    model.features.conv1.register_forward_hook(lambda *_: None)
    model(torch.ones(2, 3, 32, 32, dtype=torch.float64)).sum().backward()
    before = fingerprint(model)
    explain(model, images, 1, method=method)
    explain(model, images, FeatureMap("conv4"), method=method)
    for wrong in (FeatureMap("conv4", 99), FeatureMap("conv44"), 10):
        with pytest.raises(UnknownNameError):
            explain(model, images, wrong, method=method)
    assert fingerprint(model) == before


def test_training_mode_and_frozen_weights_change_nothing(network, images) -> None:
    model = network(batch_norm=True)
    expected = explain(model, images)
    assert torch.equal(explain(model.train().requires_grad_(False), images), expected)


@pytest.mark.parametrize("method", METHODS)
def test_batch_normalisation_is_explained_as_when_folded(network, images, method) -> None:
    model = network(batch_norm=True).float()
    model.train()(model.preprocess(images))  # statistics of its own
    signal = explain(model, images, 3, method=method)
    folded = explain(fold_batch_norm(model), images, 3, method=method)
    torch.testing.assert_close(signal, folded, rtol=1e-3, atol=1e-4 * folded.abs().max().item())


@pytest.mark.parametrize(
    "surroundings",
    [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)],
    ids=["no_grad", "inference_mode", "autocast"],
)
def test_the_callers_surroundings_change_nothing(network, images, surroundings) -> None:
    model = network().float()
    expected = explain(model, images)
    with surroundings():
        inside = explain(model, images)
        made_inside = explain(network().float(), images.clone())
    assert torch.equal(inside, expected)
    assert torch.equal(made_inside, expected)
    assert not inside.is_inference()
    assert not inside.requires_grad


def test_numbers_and_precisions_may_be_of_any_kind(network, images) -> None:
    expected = explain(network(), images, 3)
    assert expected.dtype == torch.float64
    for number in (np.int64(3), torch.tensor(3)):
        assert torch.equal(explain(network(), images, number), expected)
    assert explain(network().bfloat16(), images).dtype == torch.bfloat16


def test_a_fine_tuned_network_is_explained_by_number(network, images) -> None:
    model = network()
    model.reset_classifier(3)
    assert explain(model, images, 2).shape == (4, 3, 32, 32)
    with pytest.raises(UnknownNameError, match=r"no names.*0\.\.\.2"):
        explain(model, images, "cat")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("cta", "no class is called 'cta'; did you mean 'cat'"),
        (10, r"no class 10; an integer in 0\.\.\.9"),
        (-1, "no class -1"),
        (True, "no class True"),
        (1.5, r"no class 1\.5"),
        (torch.tensor(1.5), r"no class tensor\(1\.5"),
        (torch.tensor([1, 2]), r"no class tensor"),
        (FeatureMap("conv99"), "no layer is called 'conv99'; did you mean 'conv"),
        (FeatureMap(None), "no layer is called None"),
        (FeatureMap("conv1", 5), r"no channel of conv1 5; an integer in 0\.\.\.4"),
        (FeatureMap("conv1", "red"), "no channel of conv1 'red'"),
        (FeatureMap("conv6", 0, (8, 0)), r"no row of conv6 8; an integer in 0\.\.\.7"),
        (FeatureMap("conv6", 0, (0, -1)), "no column of conv6 -1"),
        (FeatureMap("conv6", 0, 3), "no position 3"),
    ],
)
def test_what_is_not_there_is_refused(network, images, target, message) -> None:
    with pytest.raises(UnknownNameError, match=message):
        explain(network(), images, target)


def test_other_mistakes_are_explained(network, images) -> None:
    with pytest.raises(UnknownNameError, match="no method is called 'giuded'; did you mean 'gui"):
        explain(network(), images, method="giuded")
    with pytest.raises(ImageError, match="uint8"):
        explain(network(), images / 255)
    with pytest.raises(ImageError, match=r"nothing\.png"):
        explain(network(), "nothing.png")
    with pytest.raises(ArchitectureError, match="Linear cannot be explained"):
        explain(torch.nn.Linear(1, 1), images)
    assert issubclass(UnknownNameError, AllCNNZooError)


def test_the_layers_are_those_of_the_network(network) -> None:
    assert list(layers(network("base_a")))[-2:] == ["relu4", "classifier"]
