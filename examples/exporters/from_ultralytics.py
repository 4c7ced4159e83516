"""Ultralytics' export -> a verified IR that returns boxes."""

import numpy as np
from ultralytics import YOLO

import pp_graph as pp

exported = YOLO("yolov8n.yaml").export(format="onnx", imgsz=320)  # your .pt; without nms=True

artifact = pp.convert(exported, post=pp.DetectionPostProcessor(confidence=0.25, iou=0.45))
images = np.random.default_rng(0).random((4, 3, 320, 320), np.float32)
print(pp.verify(exported, artifact, images).verdict)
artifact.save("ultralytics.xml", overwrite=True)
