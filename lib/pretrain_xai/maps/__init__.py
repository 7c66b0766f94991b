"""Maps that are compared with the lesions: of an attribution's channels, of the image alone, and their masks."""
