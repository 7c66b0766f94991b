"""Lesions laid over slices: where, how, in parts, and the audit that no shortcut gives the class away."""
