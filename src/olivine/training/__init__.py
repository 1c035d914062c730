"""Training: one loop for every stage, what it optimises, and what it leaves on disk to resume from."""
