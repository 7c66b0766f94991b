"""Scores that other libraries compute or that need an own algorithm."""
