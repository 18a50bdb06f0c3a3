"""A run that is a process of its own: any script that a shell can start. No torch."""
