"""`model.usage.md`: how to run an IR, written from the model itself."""
