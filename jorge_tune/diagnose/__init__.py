"""Jorge's direction against exact Shampoo's along a short run, and what it means."""
