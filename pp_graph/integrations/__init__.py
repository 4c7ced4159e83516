"""Other libraries: torch, Lightning, Anomalib, onnxscript, Olive. Each needs an extra and is imported only by name."""
