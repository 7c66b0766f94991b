"""Files: written whole with a record of how they were made, and read within bounds without executing them."""
