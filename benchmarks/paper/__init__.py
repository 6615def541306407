"""The tables and figures of the paper beside our own numbers."""
