"""Where studies are kept, and who holds which trial there."""
