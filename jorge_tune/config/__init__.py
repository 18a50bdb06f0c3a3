"""Typed YAML that knows no recipe: nodes with their places, decoding with all faults at once, ranges."""
