"""Images for verification and the like: arrays, .npz files and folders, brought into a model's shape."""

from __future__ import annotations

from pp_graph.data.images import Images, ImageSource, open_images

__all__ = ["ImageSource", "Images", "open_images"]
