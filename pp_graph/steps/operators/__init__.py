"""The operators that steps write: each works at every opset from `MINIMUM_OPSET` on."""
