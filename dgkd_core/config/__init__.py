"""params.yaml: its values, their types and ranges, and presets that are laid over it."""
