"""Training on CIFAR: named recipes, any number of processes, runs that can be resumed."""

from .loop import train
from .recipes import RECIPES, ModernMethod, NeonMethod, Recipe, get_recipe
from .run_directory import time_to_accuracy

__all__ = [
    "RECIPES",
    "ModernMethod",
    "NeonMethod",
    "Recipe",
    "get_recipe",
    "time_to_accuracy",
    "train",
]
