"""Hugging Face Optimum's ONNX exporter -> a verified IR with the model's class names."""

import numpy as np
from optimum.exporters.onnx import main_export
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

import pp_graph as pp

config = ViTConfig(hidden_size=48, num_hidden_layers=2, num_attention_heads=3, intermediate_size=96, num_labels=5)
ViTForImageClassification(config).save_pretrained("vit"), ViTImageProcessor().save_pretrained("vit")
main_export("vit", "vit_onnx", task="image-classification")

names = tuple(config.id2label.values())
artifact = pp.convert(
    "vit_onnx/model.onnx", post=pp.ClassificationPostProcessor(labels=names, top=3), input_shape=(1, 3, 224, 224)
)
images = np.random.default_rng(0).random((4, 3, 224, 224), np.float32)
print(pp.verify("vit_onnx/model.onnx", artifact, images).verdict)
artifact.save("optimum.xml", overwrite=True)
