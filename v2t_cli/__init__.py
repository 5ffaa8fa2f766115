"""v2t: turn sentence vectors back into text."""

__version__ = "0.1.0"
