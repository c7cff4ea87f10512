"""Diffusion-guided knowledge distillation (DGKD)."""
