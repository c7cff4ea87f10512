"""Depth maps: from a DPT, measured, or none."""
