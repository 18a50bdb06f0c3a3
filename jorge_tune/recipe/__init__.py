"""The recipe: schema, reader and writer, bootstrap rules, schedules. No torch."""
