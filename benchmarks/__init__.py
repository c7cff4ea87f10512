"""Measurements on the machine at hand: ``python -m benchmarks --help``."""
