"""The text beside a converted model: what goes in, what comes out, and programs that run it."""
