"""What a step costs on this device, and the refresh interval that keeps it inside the budget."""
