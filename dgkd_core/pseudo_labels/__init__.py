"""From class maps to the labels that the segmenter learns from."""
