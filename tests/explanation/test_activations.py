"""Which images each feature map answers to most."""

import functools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from allcnn_zoo import FeatureMap, explain
from allcnn_zoo.errors import ImageError
from allcnn_zoo.explanation import receptive_fields, top_activations
from allcnn_zoo.explanation.attribution import layers, run

# Whitening rounds in float32, and differently for a batch of another size.
close = functools.partial(torch.testing.assert_close, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def outputs_of(model, images) -> dict[str, torch.Tensor]:
    outputs = dict(run(model, model.preprocess(images).double()))
    return {
        name: outputs[name] for name, layer in layers(model).items() if type(layer) is nn.Conv2d
    }


@given(
    batch_size=st.integers(1, 6), k=st.integers(1, 6), name=st.sampled_from(["base_c", "allcnn_b"])
)
@settings(max_examples=8)
def test_they_are_those_of_all_images_at_once(network, images, batch_size, k, name) -> None:
    model = network(name)
    expected = outputs_of(model, images)
    found = top_activations(model, images.numpy(), k=k, batch_size=batch_size)
    assert list(found) == list(expected)
    for layer, top in found.items():
        strongest = expected[layer].flatten(2).amax(dim=2).T.sort(dim=1, descending=True)
        assert top.layer == layer
        assert torch.equal(top.images, strongest.indices[:, :k])
        close(top.values, strongest.values[:, :k].float())
        for channel, places in enumerate(top.positions):
            rows, columns = places.T
            values = expected[layer][top.images[channel], channel, rows, columns]
            close(values.float(), top.values[channel])


def test_explaining_a_feature_map_starts_where_it_is_most_active(network, images) -> None:
    model = network()
    top = top_activations(model, images)["conv6"]
    image, position = top.images[2, 0], tuple(top.positions[2, 0].tolist())
    exact = explain(model, images[image], FeatureMap("conv6", 2, position))
    assert torch.equal(explain(model, images[image], FeatureMap("conv6", 2)), exact)


def test_the_model_is_run_as_in_eval_mode_and_stays_in_its_own(network, images) -> None:
    model = network(batch_norm=True)
    expected = top_activations(model, images)["classifier"].values
    found = top_activations(model.train(), images)["classifier"].values
    assert torch.equal(found, expected)
    assert all(module.training for module in model.modules())


def test_images_may_be_mapped_from_disk(network, images, tmp_path) -> None:
    np.save(tmp_path / "images.npy", images.numpy())
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    found = top_activations(network(), mapped, batch_size=3)["conv1"]
    assert torch.equal(found.images, top_activations(network(), images)["conv1"].images)


@pytest.mark.parametrize(
    "wrong", [torch.zeros(0, 3, 32, 32, dtype=torch.uint8), torch.rand(1, 3, 32, 32)]
)
def test_what_is_not_a_set_of_images_is_refused(network, wrong) -> None:
    with pytest.raises(ImageError):
        top_activations(network(), wrong)


@pytest.mark.parametrize("name", ["allcnn_a", "convpool_cnn_c"])
def test_an_activation_depends_on_its_receptive_field_and_on_all_of_it(network, name) -> None:
    model = network(name)
    for layer, field in receptive_fields(model).items():
        inputs = torch.randn(6, 3, 64, 64, dtype=torch.float64, requires_grad=True)
        maps = next(maps for other, maps in run(model, inputs) if other == layer)
        place = maps.shape[-1] // 2
        # Smooth and positive: what pooling and ReLU ignore in one image they use in another.
        maps[:, :, place, place].sum().backward()
        touched = inputs.grad.abs().sum(dim=(0, 1)) > 0
        window = field.window(place, 64)
        inside = torch.zeros(64, 64, dtype=torch.bool)
        inside[window, window] = True
        assert not (touched & ~inside).any()
        edges = torch.stack([touched[window, window].any(dim=axis) for axis in (1, 0)])
        assert edges[:, [0, -1]].all()
