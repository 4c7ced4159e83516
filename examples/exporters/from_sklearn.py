"""skl2onnx -> a verified IR of a classifier on features."""

from pathlib import Path

import numpy as np
from skl2onnx import to_onnx
from skl2onnx.helpers.onnx_helper import select_model_inputs_outputs
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

import pp_graph as pp

features, classes = load_digits(return_X_y=True)
features = features.astype(np.float32) / 16
model = MLPClassifier(max_iter=50).fit(features, classes)
whole = to_onnx(model, features[:1], options={"zipmap": False})
# The label needs operators that OpenVINO lacks; ours comes from the probabilities.
Path("sklearn.onnx").write_bytes(select_model_inputs_outputs(whole, ["probabilities"]).SerializeToString())

artifact = pp.convert("sklearn.onnx", post=pp.ClassificationPostProcessor(unknown_below=0.5))
print(pp.verify("sklearn.onnx", artifact, features[:200]).verdict)
artifact.save("sklearn.xml", overwrite=True)
