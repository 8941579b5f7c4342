"""What a model promises and needs, where it lies, and how its weights are read."""
