"""A model explained and scored, and checks of the explanations themselves."""
