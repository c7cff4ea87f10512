"""Inference, scores and figures."""
