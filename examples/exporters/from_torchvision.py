"""A detector of torchvision -> a verified IR that returns boxes."""

import numpy as np
import torch
import torchvision

import pp_graph as pp

model = torchvision.models.detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None).eval()
torch.onnx.export(model, (torch.rand(1, 3, 320, 320),), "torchvision.onnx", dynamo=False, opset_version=17)

artifact = pp.convert("torchvision.onnx", post=pp.DetectionPostProcessor(head="torchvision", confidence=0.5))
images = np.random.default_rng(0).random((4, 3, 320, 320), np.float32)
print(pp.verify("torchvision.onnx", artifact, images).verdict)
artifact.save("torchvision.xml", overwrite=True)
