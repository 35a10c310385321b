"""The version, in a room of its own below all others, because results and files state it."""

__version__ = "0.1.0"
