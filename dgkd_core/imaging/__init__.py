"""Masks that follow the edges of a picture: PAMR and the dense CRF."""
