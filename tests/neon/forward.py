"""All-CNN-C from converted weights, in the plainest possible way."""

import numpy as np
import torch
import torch.nn.functional as F

from allcnn_zoo.neon import ConvertedAllCNN


def logits(converted: ConvertedAllCNN, images: np.ndarray) -> torch.Tensor:
    """Logits (N, classes) of whitened images (N, 3, 32, 32)."""
    x = torch.from_numpy(images)
    names = [f"features.conv{number}" for number in range(1, 9)] + ["classifier"]
    for name in names:
        weight = torch.from_numpy(converted.weights[f"{name}.weight"]).to(x.dtype)
        bias = torch.from_numpy(converted.weights[f"{name}.bias"]).to(x.dtype)
        stride = 2 if name in ("features.conv3", "features.conv6") else 1
        x = F.relu(F.conv2d(x, weight, bias, stride, padding=weight.shape[-1] // 2))
    return x.mean((2, 3))
