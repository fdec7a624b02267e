"""Select long-context training data by measured long-range dependency."""

__version__ = "0.1.0"
