"""Other libraries: torch, Anomalib. Each needs an extra, and is imported only when it is asked for by its own name."""
