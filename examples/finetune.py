"""Fine-tune the pretrained network for a new problem of five classes.

    python examples/finetune.py --data DIR

The five classes are CIFAR-10's animals without the frog: bird, cat, deer, dog, horse. The last
convolution starts from random weights; the layers below it learn at a tenth of its rate.
"""

import argparse
import time

import numpy as np
import torch
from torch.nn import functional

import allcnn_zoo
from allcnn_zoo.architectures import CIFAR10_CLASSES

CLASSES = ("bird", "cat", "deer", "dog", "horse")


def select(split: "allcnn_zoo.cifar.Split", count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first `count` images of our classes, and their new labels 0...4."""
    numbers = [CIFAR10_CLASSES.index(name) for name in CLASSES]
    chosen = np.flatnonzero(np.isin(split.labels, numbers))[:count]
    return split.images[chosen], np.searchsorted(numbers, split.labels[chosen])


def finetune(model: allcnn_zoo.AllCNN, images: np.ndarray, labels: np.ndarray, epochs: int) -> None:
    """Train the new last convolution, and the other layers with a tenth of the learning rate."""
    pixels, targets = torch.from_numpy(images), torch.from_numpy(labels)
    groups = [
        {"params": model.features.parameters(), "lr": 0.001},
        {"params": model.classifier.parameters(), "lr": 0.01},
    ]
    optimizer = torch.optim.SGD(groups, momentum=0.9, nesterov=True, weight_decay=1e-4)
    batches = epochs * (len(images) // 64)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=batches)
    model.train()
    for epoch in range(epochs):
        total = 0.0
        order = torch.randperm(len(images))
        for batch in order.split(64)[: len(images) // 64]:
            whitened = model.preprocess(pixels[batch]).contiguous(memory_format=torch.channels_last)
            loss = functional.cross_entropy(model(whitened), targets[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch + 1}/{epochs}  loss {total / (len(images) // 64):.3f}", flush=True)
    model.eval()


def main() -> None:
    """Fine-tune, save with our own class names, load again, measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="folder that holds cifar-10-batches-py")
    parser.add_argument("--weights", metavar="TAG", help="to start from (the preferred weights)")
    parser.add_argument("--images", type=int, default=5000, help="to train on (5000)")
    parser.add_argument("--test-images", type=int, default=2000, help="to measure on (2000)")
    parser.add_argument("--epochs", type=int, default=3, help="passes over them (3)")
    parser.add_argument("--out", default="animals.safetensors", help="the weights file to write")
    arguments = parser.parse_args()

    torch.manual_seed(0)
    data = allcnn_zoo.CIFAR10(arguments.data)
    model = allcnn_zoo.create_model(
        "allcnn_c", pretrained=True, weights=arguments.weights, num_classes=len(CLASSES)
    )
    model.to(memory_format=torch.channels_last)
    start = time.perf_counter()
    finetune(model, *select(data.train, arguments.images), arguments.epochs)
    print(f"fine-tuned in {time.perf_counter() - start:.0f} s")

    model.save(
        arguments.out,
        classes=CLASSES,
        tag="animals",
        provenance={"finetuned_from": arguments.weights},
    )

    classifier = allcnn_zoo.Classifier.from_pretrained(arguments.out)
    result = allcnn_zoo.evaluate(classifier, *select(data.test, arguments.test_images))
    print(f"accuracy on {result.images} test images: {result.accuracy:.2%}")
    for name, accuracy in result.per_class.items():
        print(f"  {name:6}{accuracy:8.2%}")


if __name__ == "__main__":
    main()
