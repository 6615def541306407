"""Sweeps: grids of runs, here or on a cluster, and a search among settings."""
