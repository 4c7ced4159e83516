"""Operators that steps write, at every opset from `MINIMUM_OPSET` on."""
