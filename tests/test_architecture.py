"""The networks are the paper's, and behave like any other PyTorch module."""

import copy
import io
import itertools
import pickle

import pytest
import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import nn

from allcnn_zoo import AllCNN, Architecture, fold_batch_norm
from allcnn_zoo.errors import ArchitectureError
from allcnn_zoo.model import STAGES

# Tables 1 and 2 of the paper, transcribed: "5x5/96" is a convolution, "/2" its stride.
PAPER = {
    "base_a": "5x5/96 pool 5x5/192 pool 3x3/192 1x1/192 1x1/10",
    "base_b": "5x5/96 1x1/96 pool 5x5/192 1x1/192 pool 3x3/192 1x1/192 1x1/10",
    "base_c": "3x3/96 3x3/96 pool 3x3/192 3x3/192 pool 3x3/192 1x1/192 1x1/10",
    "strided_cnn_a": "5x5/96/2 5x5/192/2 3x3/192 1x1/192 1x1/10",
    "strided_cnn_b": "5x5/96 1x1/96/2 5x5/192 1x1/192/2 3x3/192 1x1/192 1x1/10",
    "strided_cnn_c": "3x3/96 3x3/96/2 3x3/192 3x3/192/2 3x3/192 1x1/192 1x1/10",
    "convpool_cnn_a": "5x5/96 3x3/96 pool 5x5/192 3x3/192 pool 3x3/192 1x1/192 1x1/10",
    "convpool_cnn_b": (
        "5x5/96 1x1/96 3x3/96 pool 5x5/192 1x1/192 3x3/192 pool 3x3/192 1x1/192 1x1/10"
    ),
    "convpool_cnn_c": (
        "3x3/96 3x3/96 3x3/96 pool 3x3/192 3x3/192 3x3/192 pool 3x3/192 1x1/192 1x1/10"
    ),
    "allcnn_a": "5x5/96 3x3/96/2 5x5/192 3x3/192/2 3x3/192 1x1/192 1x1/10",
    "allcnn_b": "5x5/96 1x1/96 3x3/96/2 5x5/192 1x1/192 3x3/192/2 3x3/192 1x1/192 1x1/10",
    "allcnn_c": "3x3/96 3x3/96 3x3/96/2 3x3/192 3x3/192 3x3/192/2 3x3/192 1x1/192 1x1/10",
}


def describe(model: AllCNN) -> str:
    words = []
    for module in (*model.features, model.classifier):
        if isinstance(module, nn.Conv2d):
            (height, width), stride = module.kernel_size, module.stride[0]
            words.append(f"{height}x{width}/{module.out_channels}" + f"/{stride}" * (stride > 1))
        elif isinstance(module, nn.MaxPool2d):
            assert (module.kernel_size, module.stride) == (3, 2)
            words.append("pool")
    return " ".join(words)


@pytest.mark.parametrize("name", PAPER)
def test_each_network_is_the_one_in_the_papers_tables(name: str) -> None:
    assert describe(AllCNN(Architecture(name))) == PAPER[name]


def test_there_are_no_other_networks() -> None:
    assert STAGES.keys() == PAPER.keys()


def test_all_cnn_c_has_the_papers_number_of_parameters() -> None:
    assert sum(parameter.numel() for parameter in AllCNN().parameters()) == 1_369_738
    assert Architecture().count_parameters() == 1_369_738


@pytest.mark.parametrize("name", PAPER)
@pytest.mark.parametrize(("last_padding", "size"), [(1, 8), (0, 6)], ids=["neon", "paper"])
def test_neon_averages_8x8_positions_and_the_paper_6x6(
    name: str, last_padding: int, size: int
) -> None:
    model = AllCNN(Architecture(name, last_padding=last_padding)).eval()
    features = model.forward_features(torch.zeros(1, 3, 32, 32))
    assert features.shape == (1, 192, size, size)
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


def test_every_convolution_is_followed_by_a_relu_module_of_its_own() -> None:
    modules = [*AllCNN().features, AllCNN().classifier, AllCNN().final_activation]
    relus = [module for module in AllCNN().modules() if isinstance(module, nn.ReLU)]
    assert len(relus) == len({id(relu) for relu in relus}) == 9
    for module, follower in itertools.pairwise(modules):
        if isinstance(module, nn.Conv2d):
            assert isinstance(follower, nn.ReLU)
            assert not follower.inplace


def test_the_final_relu_can_be_left_out() -> None:
    with_relu, without = AllCNN(), AllCNN(Architecture(final_relu=False))
    without.classifier.load_state_dict(with_relu.classifier.state_dict())
    images = torch.randn(4, 3, 32, 32)
    assert (with_relu.eval()(images) >= 0).all()
    assert (without.eval()(images) < 0).any()


@pytest.mark.parametrize("fields", [{"final_relu": False}, {"last_padding": 0}], ids=str)
def test_a_state_dict_gives_the_same_function_in_any_network_of_its_name(noise, fields) -> None:
    trained = AllCNN(Architecture(widths=(4, 6), **fields)).eval()
    images = noise(2, 3, 32, 32)
    for kept in (
        load_safetensors(save_safetensors(trained.state_dict())),
        torch.load(saved(trained.state_dict()), weights_only=True),
    ):
        fresh = AllCNN(Architecture(widths=(4, 6))).eval()
        fresh.load_state_dict(kept)
        assert fresh.architecture == trained.architecture
        torch.testing.assert_close(fresh(images), trained(images), atol=0, rtol=0)


def saved(state: dict) -> io.BytesIO:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return file


def test_a_state_dict_of_another_network_is_refused_though_the_shapes_fit() -> None:
    pooled = AllCNN(Architecture("base_c"))
    with pytest.raises(ArchitectureError, match=r"weights of base_c, .* is strided_cnn_c"):
        AllCNN(Architecture("strided_cnn_c")).load_state_dict(pooled.state_dict())


def test_a_state_dict_of_weights_and_biases_only_is_welcome() -> None:
    model = AllCNN()
    state = {name: tensor for name, tensor in model.state_dict().items() if "_extra" not in name}
    assert state.keys() == Architecture().shapes().keys()
    AllCNN().load_state_dict(state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_take_what_the_preprocessing_gives(dtype) -> None:
    model = AllCNN(Architecture(widths=(4, 6))).eval()
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    expected = model(model.preprocess(pixels))
    result = model.to(dtype)(model.preprocess(pixels))
    assert result.dtype == dtype
    torch.testing.assert_close(result.float(), expected, atol=0.05, rtol=0.05)


@pytest.mark.parametrize(
    "leave_out",
    [lambda m: m.reset_classifier(0), lambda m: setattr(m, "classifier", nn.Identity())],
)
def test_without_a_classifier_it_gives_features(noise, leave_out) -> None:
    model, images = AllCNN(Architecture(widths=(4, 6))).eval(), noise(2, 3, 32, 32)
    features = model.forward_head(model.forward_features(images), pre_logits=True)
    leave_out(model)
    assert model.num_classes == model.architecture.num_classes == 0
    torch.testing.assert_close(model(images), features)
    assert AllCNN(model.architecture)(images).shape == (2, 6)


def test_preprocessing_first_used_in_inference_mode_serves_training_later() -> None:
    model = AllCNN(Architecture(widths=(4, 6)))
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.inference_mode():
        model.preprocess(pixels)
    model(model.preprocess(pixels)).sum().backward()
    assert not any(buffer.is_inference() for buffer in model.preprocess.buffers())


def test_dropout_is_where_the_paper_has_it() -> None:
    rates = {
        name: module.p
        for name, module in AllCNN().features.named_children()
        if isinstance(module, nn.Dropout)
    }
    assert rates == {"dropout0": 0.2, "dropout1": 0.5, "dropout2": 0.5}
    names = list(dict(AllCNN().features.named_children()))
    assert names.index("dropout0") == 0
    assert names[names.index("dropout1") - 1] == "relu3"
    assert names[names.index("dropout2") - 1] == "relu6"


@pytest.mark.parametrize(
    "arguments",
    [
        {"name": "resnet50"},
        {"num_classes": -1},
        {"num_classes": True},
        {"widths": (96,)},
        {"widths": (96, -1)},
        {"last_padding": 2},
    ],
)
def test_what_is_not_a_network_is_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(ArchitectureError, match=str(next(iter(arguments.values())))[:4].strip("(")):
        Architecture(**arguments)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_it_scripts_and_exports(noise) -> None:
    model, images = AllCNN(Architecture(widths=(8, 12))).eval(), noise(2, 3, 32, 32)
    expected = model(images)
    torch.testing.assert_close(torch.jit.script(model)(images), expected)
    torch.testing.assert_close(torch.export.export(model, (images,)).module()(images), expected)


def test_memory_format_does_not_change_the_result_and_autocast_little(noise) -> None:
    model, images = AllCNN(Architecture(widths=(8, 12))).eval(), noise(4, 3, 32, 32)
    expected = model(images)
    model = model.to(memory_format=torch.channels_last)
    result = model(images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(result, expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = model(images)
    torch.testing.assert_close(result.float(), expected, atol=0.02, rtol=0.05)


def test_copies_and_pickles_compute_the_same_and_leave_the_statistics_behind(noise) -> None:
    model, images = AllCNN().eval(), noise(1, 3, 32, 32)
    assert model.preprocess is model.preprocess
    pickled = pickle.dumps(model)
    assert len(pickled) < 6_000_000
    for twin in (copy.deepcopy(model), pickle.loads(pickled)):
        torch.testing.assert_close(twin(images), model(images), atol=0, rtol=0)
        assert twin.preprocess is not model.preprocess


def test_the_preprocessing_is_not_part_of_the_state() -> None:
    model = AllCNN()
    before = list(model.state_dict())
    model.preprocess(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    assert list(model.state_dict()) == before
    assert set(before) == {*Architecture().shapes(), "_extra_state"}


@pytest.mark.parametrize("classes", [None, 3000])
def test_fresh_convolutions_keep_the_size_of_signals_through_relus(classes) -> None:
    """He's initialization: a variance of 2 / inputs, and no biases."""
    torch.manual_seed(0)
    model = AllCNN(Architecture(widths=(64, 96)))
    fresh = [module for module in model.modules() if isinstance(module, nn.Conv2d)][:-1]
    if classes is not None:
        model.reset_classifier(classes)
        fresh = [model.classifier]
    for convolution in fresh:
        expected = (2 / convolution.weight[0].numel()) ** 0.5
        assert convolution.weight.std().item() == pytest.approx(expected, rel=0.05)
        assert convolution.weight.mean().abs() < expected / 10
        assert not convolution.bias.any()


def test_batch_normalization_folds_exactly(noise) -> None:
    torch.manual_seed(0)
    model = AllCNN(Architecture(widths=(8, 12)), batch_norm=True)
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight, -1, 2)
        nn.init.normal_(norm.bias)
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 1e-5, 3)  # small ones show the epsilon
    images = noise(4, 3, 32, 32)
    before = torch.get_rng_state()
    plain = fold_batch_norm(model)
    assert torch.equal(torch.get_rng_state(), before)
    assert plain.state_dict().keys() - {"_extra_state"} == plain.architecture.shapes().keys()
    torch.testing.assert_close(plain(images), model.eval()(images), atol=1e-5, rtol=1e-5)
    assert any(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@pytest.mark.parametrize("final_relu", [True, False])
def test_features_and_head_make_the_whole_as_in_timm(noise, final_relu: bool) -> None:
    model = AllCNN(Architecture(widths=(8, 12), num_classes=7, final_relu=final_relu)).eval()
    images = noise(2, 3, 32, 32)
    features = model.forward_features(images)
    assert torch.equal(model.forward_head(features), model(images))
    pooled = model.forward_head(features, pre_logits=True)
    assert pooled.shape == (2, model.num_features)
    torch.testing.assert_close(pooled, features.mean(dim=(2, 3)), atol=0, rtol=0)
    assert model.get_classifier().out_channels == model.num_classes == 7
    model.reset_classifier(5)
    assert model.get_classifier().out_channels == model.num_classes == 5
    assert torch.equal(model.forward_features(images), features)
    assert model(images).shape == (2, 5)
