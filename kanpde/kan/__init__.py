"""Kolmogorov-Arnold networks: bases, weights, layers. No PDE here but the jet rule of a layer."""
