"""Measurements on runs and devices; no Optuna."""
