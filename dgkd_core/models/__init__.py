"""The networks, and what rebuilds them from a folder."""
