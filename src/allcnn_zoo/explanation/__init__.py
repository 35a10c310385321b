"""What a network responds to: attributions, strongest activations, and drawings of them."""

from .activations import ReceptiveField, TopActivations, receptive_fields, top_activations
from .attribution import METHODS, FeatureMap, explain
from .drawing import draw_explanation, draw_filters, draw_layer

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
