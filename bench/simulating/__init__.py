"""Latent course to raw files."""
