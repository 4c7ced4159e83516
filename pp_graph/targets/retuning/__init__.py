"""Other statistics or sensitivities in an artifact: in memory, or in its files without touching a weight."""
