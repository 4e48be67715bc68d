"""The common data interface."""
