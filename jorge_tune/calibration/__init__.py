"""What a step costs on this device, and the smallest refresh interval that keeps it within a time budget."""
