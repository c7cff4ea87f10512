"""Diffusion-guided knowledge distillation (DGKD): denoisers, DIST, and the losses made of them."""
