"""A worker and all that can happen to it."""
