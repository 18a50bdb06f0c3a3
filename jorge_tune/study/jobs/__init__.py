"""Runs as processes of their own: how they are started and followed, and what their ends mean."""
