"""Figures and tables as they are printed."""
