"""The interactive viewer of the `explore` notebook."""
