"""Low light: the sensor model, the dark pictures of a data set, a preview of them."""
