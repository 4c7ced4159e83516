"""timm -> a verified IR that takes bytes and knows the model's mean and scale."""

import numpy as np
import timm
import torch

import pp_graph as pp

model = timm.create_model("mobilenetv3_small_050", pretrained=False).eval()
torch.onnx.export(model, (torch.zeros(1, 3, 224, 224),), "timm.onnx", input_names=["image"])

of = model.pretrained_cfg
frames = pp.Preprocessing(mean=tuple(255 * m for m in of["mean"]), scale=tuple(255 * s for s in of["std"]))
artifact = pp.convert("timm.onnx", post=pp.ClassificationPostProcessor(top=5), preprocessing=frames)
images = np.random.default_rng(0).integers(0, 256, (4, 224, 224, 3), np.uint8)
print(pp.verify("timm.onnx", artifact, images).verdict)
artifact.save("timm.xml", overwrite=True)
