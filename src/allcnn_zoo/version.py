"""The version of the package, which results and files record."""

__version__ = "0.1.0"
