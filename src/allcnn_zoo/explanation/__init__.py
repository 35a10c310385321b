"""What drives a network: signals traced back to the image, and the pictures made of them."""

from .activations import ReceptiveField, TopActivations, receptive_fields, top_activations
from .sheets import draw_explanation, draw_filters, draw_layer
from .signal import METHODS, FeatureMap, explain

__all__ = [
    "METHODS",
    "FeatureMap",
    "ReceptiveField",
    "TopActivations",
    "draw_explanation",
    "draw_filters",
    "draw_layer",
    "explain",
    "receptive_fields",
    "top_activations",
]
