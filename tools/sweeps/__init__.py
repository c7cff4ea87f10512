"""Experiments for DVC's queue; tables, figures and docs/RESULTS.md of those that have run."""
