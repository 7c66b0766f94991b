"""How a study runs as a batch: what runs again and why, what it asks for, and whether its files agree."""
