"""Write the graphs of tests/golden/torch/: one small residual net through both of PyTorch's ONNX exporters.

    python3 -m venv /tmp/venv-torch && /tmp/venv-torch/bin/pip install -r tools/golden/requirements-torch.txt
    /tmp/venv-torch/bin/python tools/golden/export_torch.py

The net is torchvision's recipe (bottlenecks with the stride in the 3x3, one grouped, adaptive average pool) with few
channels. The older exporter keeps BatchNormalization and writes `x.view(x.size(0), -1)` as Shape/Gather/Concat
arithmetic; the newer one has its own idioms.
"""

import pathlib

import onnx
import torch
from torch import nn

OUT = pathlib.Path(__file__).resolve().parents[2] / "tests" / "golden" / "torch"


class Bottleneck(nn.Module):
    def __init__(self, inputs, width, outputs, stride, groups):
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, stride, 1, groups=groups, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, outputs, 1, bias=False), nn.BatchNorm2d(outputs),
        )
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        shortcut = x if self.downsample is None else self.downsample(x)
        return torch.relu(self.main(x) + shortcut)


class SmallResNet(nn.Module):
    def __init__(self, flatten_by_view):
        super().__init__()
        self.flatten_by_view = flatten_by_view
        self.stem = nn.Sequential(
            nn.Conv2d(3, 20, 7, 2, 3, bias=False), nn.BatchNorm2d(20), nn.ReLU6(), nn.MaxPool2d(3, 2, 1)
        )
        self.blocks = nn.Sequential(
            Bottleneck(20, 12, 36, 1, 1), Bottleneck(36, 12, 36, 1, 1),
            Bottleneck(36, 24, 72, 2, 4), Bottleneck(72, 24, 72, 1, 4),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.2)
        self.fc = nn.Linear(72, 50)

    def forward(self, x):
        x = self.pool(self.blocks(self.stem(x)))
        x = x.view(x.size(0), -1) if self.flatten_by_view else torch.flatten(x, 1)
        return self.fc(self.dropout(x))


def net(seed: int, flatten_by_view: bool) -> SmallResNet:
    torch.manual_seed(seed)
    model = SmallResNet(flatten_by_view)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.weight, 0.7, 1.3), (module.bias, -0.3, 0.3),
                (module.running_mean, -0.3, 0.3), (module.running_var, 0.7, 1.3),
            ):
                nn.init.uniform_(tensor, low, high)
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    return model.eval()


def strip(path: pathlib.Path) -> None:
    """Drop stack traces and other notes, which hold the exporting machine's paths."""
    model = onnx.load(path)
    parts = [model, model.graph, *model.graph.node, *model.graph.input, *model.graph.output]
    parts += [*model.graph.value_info, *model.graph.initializer]
    for part in parts:
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    path.write_bytes(model.SerializeToString(deterministic=True))


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    image = torch.zeros(2, 3, 64, 64)
    torch.onnx.export(
        net(1, True), (image,), OUT / "torchscript_opset11.onnx", dynamo=False, opset_version=11,
        input_names=["input"], output_names=["logits"], dynamic_axes={"input": {0: "batch"}, "logits": {0: "batch"}},
        training=torch.onnx.TrainingMode.PRESERVE, do_constant_folding=False,
    )
    batch = torch.export.Dim("batch", min=1, max=1024)
    torch.onnx.export(
        net(2, False), (image,), OUT / "dynamo_opset18.onnx", dynamo=True, opset_version=18, external_data=False,
        input_names=["input"], output_names=["logits"], dynamic_shapes=({0: batch},),
    )
    for path in sorted(OUT.glob("*.onnx")):
        strip(path)
        print(path, path.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
