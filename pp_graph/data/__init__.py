"""Data to run models on (images, labels, masks), and dumped predictions."""

from __future__ import annotations

from pp_graph.data.boxes import Detections, MarkedBoxes, overlaps
from pp_graph.data.dumped_predictions import DumpedPredictions, PredictionBatch, open_predictions
from pp_graph.data.fixed_inputs import FixedInputs, feed_model, fix_inputs
from pp_graph.data.ground_truth import GroundTruth, open_ground_truth
from pp_graph.data.image_batches import Images
from pp_graph.data.images import ImageSource, choose_batch_size, open_images, read_ahead
from pp_graph.data.labelled import LabelledImages, LabelledSource, open_labelled

__all__ = [
    "Detections",
    "DumpedPredictions",
    "FixedInputs",
    "GroundTruth",
    "ImageSource",
    "Images",
    "LabelledImages",
    "LabelledSource",
    "MarkedBoxes",
    "PredictionBatch",
    "choose_batch_size",
    "feed_model",
    "fix_inputs",
    "open_ground_truth",
    "open_images",
    "open_labelled",
    "open_predictions",
    "overlaps",
    "read_ahead",
]
