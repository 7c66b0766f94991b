"""Intervals, effects, ranks, and what the numbers say in sentences."""
