"""Plain PyTorch: an ordinary module in an ordinary loop, with a DataLoader and its workers.

    python examples/plain_pytorch.py --data DIR

The model and its preprocessing, which runs in the workers, come from this package; the rest is
PyTorch. The few training steps only show how it is done: the network is already trained.
"""

import argparse

import numpy as np
import numpy.typing as npt
import torch
from small_set import small_set
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import allcnn_zoo


class Whitened(Dataset[tuple[Tensor, int]]):
    """Labeled images as the network expects them: float32 (3, 32, 32), whitened."""

    def __init__(
        self, images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64], preprocess: nn.Module
    ) -> None:
        self.images, self.labels, self.preprocess = images, labels, preprocess

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.preprocess(torch.from_numpy(self.images[index])), int(self.labels[index])


def train(model: nn.Module, batches: DataLoader[tuple[Tensor, int]], steps: int) -> None:
    """Take some steps of stochastic gradient descent."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    loss_of = nn.CrossEntropyLoss()
    model.train()
    for step, (images, labels) in zip(range(steps), batches, strict=False):
        loss = loss_of(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"step {step + 1}  loss {loss.item():.3f}")


@torch.inference_mode()
def accuracy(model: nn.Module, batches: DataLoader[tuple[Tensor, int]]) -> float:
    """Fraction of the images whose largest logit is the right one."""
    model.eval()
    right = [model(images).argmax(dim=1) == labels for images, labels in batches]
    return torch.cat(right).float().mean().item()


def main() -> None:
    """Measure, train a little, measure again."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="folder that holds cifar-10-batches-py")
    parser.add_argument("--workers", type=int, default=2, help="processes that whiten (2)")
    arguments = parser.parse_args()

    torch.manual_seed(0)
    model = allcnn_zoo.allcnn_c(weights="cifar10_best")
    training, test, _ = small_set(256, 256, arguments.data)
    training_batches, test_batches = (
        DataLoader(
            Whitened(*labeled, model.preprocess),
            batch_size=32,
            shuffle=labeled is training,
            num_workers=arguments.workers,
        )
        for labeled in (training, test)
    )
    print(f"before: {accuracy(model, test_batches):.1%}")
    train(model, training_batches, steps=4)
    print(f"after:  {accuracy(model, test_batches):.1%}")


if __name__ == "__main__":
    main()
