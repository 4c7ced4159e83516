"""What other libraries call: optional dependencies, imported late."""
