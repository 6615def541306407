"""Time and memory of steps and layers, beside other packages."""
