"""Version of the package; provenance records it."""

__version__ = "0.2.0"
