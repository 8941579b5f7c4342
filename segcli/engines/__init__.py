"""What runs a network on windows, and which of them is taken."""
