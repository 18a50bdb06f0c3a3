"""Training one run of one recipe: data, models, loop, checkpoints, records."""
