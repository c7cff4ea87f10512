"""Night from day: the sensor model, the dark pictures of a data set, sheets that show them."""
