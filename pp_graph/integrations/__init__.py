"""Other libraries' models and training loops; each of these libraries is optional and imported late."""
