"""Training logs that others write, read as rows, as readings, and as the records of a run. No torch."""
