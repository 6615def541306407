"""Runs: made, gone on with, opened again, and put to use."""
