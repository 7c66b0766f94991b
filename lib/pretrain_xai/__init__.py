"""A study of how well explanation methods find the lesions that they should find."""
