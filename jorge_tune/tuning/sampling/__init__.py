"""Who draws points, and who ends hopeless trials."""
