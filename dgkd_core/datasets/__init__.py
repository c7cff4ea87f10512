"""Readers of data sets in their own layouts, and the check that packs what they find."""
