#!/usr/bin/env bash
# One would guess that torch.onnx.export of a float64 function computes in float64: inputs, weights and outputs of the
# model are float64. Numbers in the function, 0.1 x, 1 - x, a limit of clamp, are rounded to float32 on the way and then
# written as float64, so the result is right to 8 digits alone. Nothing is said. Exponents of a power and tensors are
# not rounded: the same number as a float64 tensor keeps all digits.
# It matters to users of kanpde who export a solution of 1e-10 for another program: it would arrive with 1e-8.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.32.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON' 2> /dev/null
import sys

import onnxruntime
import torch

print("torch", torch.__version__, "onnxruntime", onnxruntime.__version__)
x = torch.linspace(0.3, 0.7, 5, dtype=torch.float64).unsqueeze(1)
tenth = torch.tensor(0.1, dtype=torch.float64)
FUNCTIONS = {
    "x * 0.1": lambda x: x * 0.1,
    "0.3 - x": lambda x: 0.3 - x,
    "x.clamp_min(0.512345)": lambda x: x.clamp_min(0.512345),
    "x ** 1.7": lambda x: x**1.7,
    "x * tensor(0.1)": lambda x: x * tenth,
}


class Module(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


rounded = []
for name, function in FUNCTIONS.items():
    model = torch.onnx.export(Module(function), (x,), dynamo=True, verbose=False).model_proto
    session = onnxruntime.InferenceSession(model.SerializeToString())
    found = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])
    error = ((found - function(x)).abs().max() / function(x).abs().max()).item()
    print(f"{name}: {found.dtype}, relative error {error:.0e}")
    rounded.append(error > 1e-10)
sys.exit(0 if rounded == [True, True, True, False, False] else "torch behaves differently now")
PYTHON
