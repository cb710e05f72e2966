#!/usr/bin/env python3
"""Make the int8 files that compare.py's peers read: `quantize_peers.py KIND SOURCE.onnx CALIBRATION.npy OUTPUT`.

| KIND | by | how |
|---|---|---|
| qdq, qoperator | ONNX Runtime's `quantize_static` | u8 activations, i8 weights with a scale per output channel |
| nncf | NNCF on OpenVINO's own graph, as OpenVINO's manual says | its defaults; OUTPUT is the .xml |
| deepsparse-qdq, deepsparse-qoperator | ONNX Runtime's `quantize_static` | one scale per layer; without operator sets that DeepSparse's old parser refuses |
"""

import pathlib
import sys

import numpy as np


def by_onnxruntime(kind: str, source: str, images: np.ndarray, output: str) -> None:
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Images(CalibrationDataReader):
        def __init__(self, name: str):
            self.batches = iter([{name: image[None]} for image in images])

        def get_next(self):
            return next(self.batches, None)

    old = kind.startswith("deepsparse-")
    prepared = str(pathlib.Path(output).with_suffix(".prepared.onnx"))
    quant_pre_process(source, prepared, skip_symbolic_shape=True)
    quantize_static(
        prepared, output, Images(onnx.load(source).graph.input[0].name), per_channel=not old,
        quant_format=QuantFormat.QDQ if kind.endswith("qdq") else QuantFormat.QOperator,
        # Of integer pooling and fully connected layers, ONNX's own operator set has none.
        op_types_to_quantize=["Conv", "Add", "MaxPool"] if kind == "deepsparse-qoperator" else None,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip
    pathlib.Path(prepared).unlink()
    if old:
        model = onnx.load(output)
        used = {node.domain for node in model.graph.node}
        kept = [opset for opset in model.opset_import if opset.domain in used]
        del model.opset_import[:]
        model.opset_import.extend(kept)
        model.ir_version = min(model.ir_version, 8)
        onnx.save(model, output)


def by_nncf(source: str, images: np.ndarray, output: str) -> None:
    import nncf
    import openvino

    model = openvino.Core().read_model(source)
    dataset = nncf.Dataset([image[None] for image in images])
    openvino.save_model(nncf.quantize(model, dataset, subset_size=len(images)), output, compress_to_fp16=False)


def main() -> None:
    kind, source, calibration, output = sys.argv[1:]
    images = np.load(calibration)
    if kind == "nncf":
        by_nncf(source, images, output)
    else:
        by_onnxruntime(kind, source, images, output)


if __name__ == "__main__":
    main()
