#!/usr/bin/env bash
# A pair of Converts, float32 to float16 and back, is left out of an OpenVINO model: nothing is rounded, and nothing overflows.
#
# Guess beforehand: the model rounds to float16, as ONNX Runtime's Cast and Cast do and as the operation is specified; 1e5 becomes infinite.
# Seen: the values come back as they went in, 1e5 too, also with INFERENCE_PRECISION_HINT f32 and EXECUTION_MODE_HINT ACCURACY. With an Add of zero between the two they are still not rounded. Where the float16 value is a result of the
# model it is rounded. Who checks an export by casting through float16 sees float32.
# Versions: OpenVINO 2026.4.1 (CPU), NumPy 2.4.6, Python 3.11.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "openvino==2026.4.1" "numpy==2.4.6"
HOME="$folder" "$folder/venv/bin/python" - <<'PROGRAM'
import numpy as np
import openvino
from openvino import opset13

values = np.array([1.0009765625 / 3, 3.14159, 1e5, 1e-8], np.float32)
rounded = values.astype(np.float16)
print("openvino", openvino.__version__)


def run(build, **settings):
    parameter = opset13.parameter([len(values)], openvino.Type.f32)
    model = openvino.Model([build(parameter)], [parameter], "cast")
    return openvino.Core().compile_model(model, "CPU", settings)([values])[0]


def there_and_back(parameter):
    return opset13.convert(opset13.convert(parameter, "f16"), "f32")


def with_a_sum_between(parameter):
    narrow = opset13.convert(parameter, "f16")
    return opset13.convert(opset13.add(narrow, opset13.constant(np.zeros(1, np.float16))), "f32")


for settings in ({}, {"INFERENCE_PRECISION_HINT": "f32"}, {"EXECUTION_MODE_HINT": "ACCURACY"}):
    result = run(there_and_back, **settings)
    print(settings, "there and back:", result.tolist())
    assert (result == values).all(), result
between = run(with_a_sum_between)
print("with a sum between:", between.tolist())
assert (between == values).all(), between
narrow = run(lambda parameter: opset13.convert(parameter, "f16"))
print("there alone:", narrow.dtype, narrow.tolist())
assert narrow.dtype == np.float16 and (narrow == rounded).all()
print("as found: the casts vanish unless float16 is a result")
PROGRAM
