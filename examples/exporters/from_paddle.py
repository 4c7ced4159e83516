"""paddle2onnx -> a verified IR."""

import numpy as np
import paddle

import pp_graph as pp

model = paddle.nn.Sequential(
    paddle.nn.Conv2D(3, 8, 3, 2),
    paddle.nn.ReLU(),
    paddle.nn.AdaptiveAvgPool2D(1),
    paddle.nn.Flatten(),
    paddle.nn.Linear(8, 10),
)
paddle.onnx.export(model, "paddle", [paddle.static.InputSpec([1, 3, 64, 64], "float32", "image")], opset_version=17)

artifact = pp.convert("paddle.onnx", post=pp.ClassificationPostProcessor(top=3))
images = np.random.default_rng(0).random((4, 3, 64, 64), np.float32)
print(pp.verify("paddle.onnx", artifact, images).verdict)
artifact.save("paddle.xml", overwrite=True)
