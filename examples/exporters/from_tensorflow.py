"""tf2onnx -> a verified IR of a segmentation model whose channels come last."""

import numpy as np
import tensorflow as tf
import tf2onnx

import pp_graph as pp

image = tf.keras.Input((64, 64, 3))
model = tf.keras.Model(image, tf.keras.layers.Conv2D(4, 3, padding="same")(image))
signature = (tf.TensorSpec((1, 64, 64, 3), tf.float32, name="image"),)
tf2onnx.convert.from_function(tf.function(model), signature, opset=17, output_path="tensorflow.onnx")

artifact = pp.convert("tensorflow.onnx", post=pp.SegmentationPostProcessor())
images = np.random.default_rng(0).random((4, 64, 64, 3), np.float32)
print(pp.verify("tensorflow.onnx", artifact, images).verdict)
artifact.save("tensorflow.xml", overwrite=True)
