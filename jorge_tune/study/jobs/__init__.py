"""Runs as processes of their own: started, followed, told apart by how they end."""
