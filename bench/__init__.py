"""The harness: common data interface, runner, store and statistics."""

__version__ = "0.1.0"
