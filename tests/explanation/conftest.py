"""Small random networks and images."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from allcnn_zoo import AllCNN, Architecture, Metadata, preprocessing
from allcnn_zoo.architectures import CIFAR10_CLASSES


@pytest.fixture(scope="session")
def preprocess() -> nn.Module:
    return preprocessing.get_preprocessing("cifar10_gcn_zca")


@pytest.fixture(scope="session")
def images() -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=generator)


@pytest.fixture(scope="session")
def network(preprocess: nn.Module) -> Callable[..., AllCNN]:
    """Narrow networks of random weights and biases, float64, in eval mode."""

    def make(name: str = "allcnn_c", *, batch_norm: bool = False, **asked: object) -> AllCNN:
        torch.manual_seed(5)
        architecture = Architecture(name, widths=(5, 7), **asked)
        model = AllCNN(architecture, batch_norm=batch_norm)
        for parameter in model.parameters():
            if parameter.dim() == 1:
                torch.nn.init.normal_(parameter, std=0.1)
        if architecture.num_classes == len(CIFAR10_CLASSES):
            model.weights = Metadata("random", architecture, CIFAR10_CLASSES)
        model.preprocess = preprocess
        return model.double().eval()

    return make
