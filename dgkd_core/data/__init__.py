"""Where pictures, labels and depth maps come from, and how they reach a network."""
