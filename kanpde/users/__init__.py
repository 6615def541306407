"""A user's own code: files executed as modules, and what goes wrong in them in one line."""
