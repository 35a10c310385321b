"""All-CNN-C and its family for CIFAR-10: networks, rescued weights, matching preprocessing."""

__version__ = "0.1.0"
