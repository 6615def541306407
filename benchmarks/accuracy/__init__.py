"""Errors that training reaches on PDEs, and what they depend on."""
