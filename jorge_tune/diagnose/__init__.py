"""How near Jorge's direction is to that of exact Shampoo, measured along a short run."""
