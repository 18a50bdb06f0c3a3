"""Runs as child processes, and their folders."""
