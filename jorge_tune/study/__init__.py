"""Studies: a search around a bootstrapped recipe with Optuna, which is imported in this room only."""
