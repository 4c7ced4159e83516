"""The operators in which steps are written, a file a kind; `Emitter` has them all."""
