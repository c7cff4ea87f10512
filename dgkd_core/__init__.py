"""dgkd: weakly-supervised semantic segmentation in the dark (DGKD-WLSS) as a DVC pipeline."""

__version__ = "0.1.0"
