"""The built-in data set: scenes that are drawn by the code, with exact masks and depth."""
