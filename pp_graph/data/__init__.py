"""Data to run models on (images, labels, masks), and dumped predictions."""

from __future__ import annotations

from pp_graph.data.dumped_predictions import DumpedPredictions, PredictionBatch, open_predictions
from pp_graph.data.fixed_inputs import FixedInputs, feed_model, fix_inputs
from pp_graph.data.images import Images, ImageSource, choose_batch_size, open_images, read_ahead
from pp_graph.data.labelled import LabelledImages, LabelledSource, open_labelled

__all__ = [
    "DumpedPredictions",
    "FixedInputs",
    "ImageSource",
    "Images",
    "LabelledImages",
    "LabelledSource",
    "PredictionBatch",
    "choose_batch_size",
    "feed_model",
    "fix_inputs",
    "open_images",
    "open_labelled",
    "open_predictions",
    "read_ahead",
]
