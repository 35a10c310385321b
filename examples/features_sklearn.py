"""Solve another problem with the network's features and scikit-learn.

    python examples/features_sklearn.py --data DIR

The new problem: does an image show a pet, that is a cat or a dog? The network is not changed; a
logistic regression on its 192 averaged features decides.
"""

import argparse

import numpy as np
import numpy.typing as npt
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from small_set import small_set

import allcnn_zoo

PETS = ("cat", "dog")


@torch.inference_mode()
def features(model: allcnn_zoo.AllCNN, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Averaged feature maps, float32 (N, 192), of uint8 images (N, 3, 32, 32)."""
    batches = [
        model.forward_head(model.forward_features(model.preprocess(batch)), pre_logits=True)
        for batch in torch.from_numpy(images).split(100)
    ]
    return torch.cat(batches).numpy()


def main() -> None:
    """Fit on some images, measure on others."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="folder that holds cifar-10-batches-py")
    data = parser.parse_args().data

    (train_images, train_labels), (test_images, test_labels), classes = small_set(500, 500, data)
    pets = [classes.index(name) for name in PETS]
    model = allcnn_zoo.allcnn_c(weights="cifar10_best")

    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1))
    probe.fit(features(model, train_images), np.isin(train_labels, pets))
    accuracy = probe.score(features(model, test_images), np.isin(test_labels, pets))
    print(f"a pet or not: {accuracy:.1%} right on {len(test_images)} images")


if __name__ == "__main__":
    main()
