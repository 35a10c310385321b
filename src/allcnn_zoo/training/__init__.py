"""Training All-CNN-C on CIFAR-10: named recipes, any number of processes, runs that survive."""

from .loop import train
from .recipes import RECIPES, ModernMethod, NeonMethod, Recipe, get_recipe
from .run import time_to_accuracy

__all__ = [
    "RECIPES",
    "ModernMethod",
    "NeonMethod",
    "Recipe",
    "get_recipe",
    "time_to_accuracy",
    "train",
]
