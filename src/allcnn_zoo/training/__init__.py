"""Training All-CNN-C on CIFAR-10: named recipes, any number of processes, runs that survive."""

from .loop import train
from .recipes import RECIPES, Recipe, get_recipe

__all__ = ["RECIPES", "Recipe", "get_recipe", "train"]
