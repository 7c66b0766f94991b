"""Lesion-free brain slices: simulated from a template, or cut from MRI that a study brings."""
