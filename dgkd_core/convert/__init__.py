"""Weights published by others, in their own names, to this project's networks and back."""

from dgkd_core.convert.authors import (
    export_authors_checkpoint,
    load_authors_checkpoint,
    load_authors_denoiser,
)

__all__ = ["export_authors_checkpoint", "load_authors_checkpoint", "load_authors_denoiser"]
