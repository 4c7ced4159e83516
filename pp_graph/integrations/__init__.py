"""Other libraries: torch, Lightning, Anomalib, onnxscript. Each needs an extra and is imported only by name."""
