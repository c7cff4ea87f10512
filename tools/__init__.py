"""Tools of the project's own upkeep."""
