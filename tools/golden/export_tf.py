"""Write the NHWC graphs of tests/golden/tf2onnx/: small Keras ResNets exported by the real tf2onnx.

    python3 -m venv /tmp/venv-tf && /tmp/venv-tf/bin/pip install -r tools/golden/requirements-tf.txt
    /tmp/venv-tf/bin/python tools/golden/export_tf.py

Both nets are built by keras.applications' own ResNet code, with few channels so that the files can be committed.
Batch-norm statistics and weights are random but well scaled, so that every layer matters for the result.
"""

import os
import pathlib

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

import numpy as np
import tensorflow as tf
import tf2onnx
from keras import layers
from keras.src.applications import resnet  # ResNet() itself is not in the public namespace

OUT = pathlib.Path(__file__).resolve().parents[2] / "tests" / "golden" / "tf2onnx"


def randomise(model: tf.keras.Model, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        values = layer.get_weights()
        if isinstance(layer, tf.keras.layers.BatchNormalization):
            channels = values[0].shape
            values = [
                rng.uniform(0.7, 1.3, channels),
                rng.normal(0, 0.2, channels),
                rng.normal(0, 0.2, channels),
                rng.uniform(0.7, 1.3, channels),
            ]
        elif values:
            fan_in = np.prod(values[0].shape[:-1])
            values = [rng.normal(0, np.sqrt(2 / fan_in), values[0].shape)] + [
                rng.normal(0, 0.1, v.shape) for v in values[1:]
            ]
        layer.set_weights([v.astype("float32") for v in values])


def export(name: str, model: tf.keras.Model, input_shape: tuple, opset: int, seed: int) -> None:
    randomise(model, seed)
    spec = (tf.TensorSpec(input_shape, tf.float32, name="input"),)
    proto, _ = tf2onnx.convert.from_keras(model, input_signature=spec, opset=opset)
    path = OUT / f"{name}.onnx"
    path.write_bytes(proto.SerializeToString(deterministic=True))
    print(path, path.stat().st_size, "bytes", sorted({n.op_type for n in proto.graph.node}))


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)

    # Pre-activation (v2), as ResNet50V2: padding layers, 1x1 max-pool shortcuts, logits.
    def stacks_v2(x):
        x = resnet.stack2(x, 6, 2, name="conv2")
        return resnet.stack2(x, 8, 2, stride1=1, name="conv3")

    v2 = resnet.ResNet(
        stacks_v2, preact=True, use_bias=True, model_name="small_v2", weights=None,
        input_shape=(64, 64, 3), classes=40, classifier_activation=None,
    )
    export("resnet_v2_opset15", v2, (None, 64, 64, 3), 15, 1)

    # v1 (stride in the first 1x1), as ResNet50, any image size, softmax at the end, an older opset.
    def stacks_v1(x):
        x = resnet.stack1(x, 6, 2, stride1=1, name="conv2")
        return resnet.stack1(x, 8, 2, name="conv3")

    features = resnet.ResNet(
        stacks_v1, preact=False, use_bias=True, model_name="small_v1", weights=None,
        include_top=False, pooling="avg", input_shape=(None, None, 3),
    )
    probabilities = layers.Dense(40, activation="softmax", name="probabilities")(features.output)
    v1 = tf.keras.Model(features.input, probabilities, name="small_v1")
    export("resnet_v1_opset9", v1, (None, None, None, 3), 9, 2)

    # A feature extractor: "same" padding with strides on any image size, and an NHWC feature map as output.
    image = layers.Input((None, None, 3))
    x = layers.Conv2D(16, 3, strides=2, padding="same", use_bias=False)(image)
    x = layers.ReLU(max_value=6.0)(layers.BatchNormalization()(x))
    x = layers.MaxPool2D(3, strides=2, padding="same")(x)
    shortcut = layers.AveragePooling2D(2, strides=2, padding="same")(x)
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(16, 3, strides=2, padding="same")(x)))
    x = layers.BatchNormalization()(layers.Conv2D(16, 3, padding="same")(x))
    x = layers.ReLU()(layers.Add()([x, shortcut]))
    export("features_opset11", tf.keras.Model(image, x), (None, None, None, 3), 11, 3)


if __name__ == "__main__":
    main()
