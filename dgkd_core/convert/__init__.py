"""Weights published by others, in their own names, to this project's networks and back."""

from dgkd_core.convert.authors import load_authors_checkpoint, load_authors_denoiser

__all__ = ["load_authors_checkpoint", "load_authors_denoiser"]
