"""A quantized convolution, the smallest one, on which a library shows whether it computes such a thing in integers.

It stands here as an ONNX file's bytes, because nothing in the runtime writes ONNX: a test makes them anew and
compares. The graph: ``input`` (1, 4, 2, 2) float32, quantized to uint8 around 128; a convolution of 1 x 1 named
``conv``, with int8 weights that have a scale for each output channel; ReLU; quantized to uint8 from 0, and dequantized
to ``output``.
"""

from __future__ import annotations

import base64
from typing import Final

QUANTIZED_CONVOLUTION: Final = base64.b64decode(
    "CAkSADrfAwopCgVpbnB1dAoFc2NhbGUKBnNpZ25lZBIBcSIOUXVhbnRpemVMaW5lYXIKJwoBcQoFc2NhbGUKBnNpZ25lZBIBeCIQRGVxdWFudG"
    "l6ZUxpbmVhcgo4CgZ2YWx1ZXMKBXN0ZXBzCgV6ZXJvcxIBdyIQRGVxdWFudGl6ZUxpbmVhcioLCgRheGlzGACgAQIKGAoBeAoBdxIEY29udhoE"
    "Y29udiIEQ29udgoSCgRjb252EgRyZWx1IgRSZWx1CiYKBHJlbHUKBXNjYWxlCgR6ZXJvEgFyIg5RdWFudGl6ZUxpbmVhcgoqCgFyCgVzY2FsZQ"
    "oEemVybxIGb3V0cHV0IhBEZXF1YW50aXplTGluZWFyEgVwcm9iZSoPEAFCBXNjYWxlSgQAAIA8Kg0QAkIGc2lnbmVkSgGAKgsQAkIEemVyb0oB"
    "ACokCAQIBAgBCAEQA0IGdmFsdWVzShBAAAAAAEAAAAAAQAAAAABAKh0IBBABQgVzdGVwc0oQAACAPAAAgDwAAIA8AACAPCoRCAQQA0IFemVyb3"
    "NKBAAAAABaHwoFaW5wdXQSFgoUCAESEAoCCAEKAggECgIIAgoCCAJiIAoGb3V0cHV0EhYKFAgBEhAKAggBCgIIBAoCCAIKAggCQgQKABAU"
)
