"""Image classifiers: data sets, networks, training, command lines."""
