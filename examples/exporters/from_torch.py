"""torch.onnx.export -> a verified IR of a segmentation model."""

import numpy as np
import torch

import pp_graph as pp

model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 1))
sizes = ({0: torch.export.Dim("batch")},)
pictures = torch.zeros(2, 3, 64, 64)
torch.onnx.export(model.eval(), (pictures,), "torch.onnx", input_names=["image"], dynamic_shapes=sizes, dynamo=True)

artifact = pp.convert("torch.onnx", post=pp.SegmentationPostProcessor())
images = np.random.default_rng(0).random((8, 3, 64, 64), np.float32)
print(pp.verify("torch.onnx", artifact, images).verdict)
artifact.save("torch.xml", overwrite=True)
