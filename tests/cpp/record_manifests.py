"""A pytest plugin: every manifest that the tests give to the parser is kept, with what Python said of it.

``python -m pytest -p tests.cpp.record_manifests tests/runtime/test_manifest.py`` with ``RECORDED`` naming a folder.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from resnet_runtime import manifest_parser
from resnet_runtime.errors import ManifestError
from resnet_runtime.manifest import Manifest

_parse = manifest_parser.manifest_from_bytes
_folder = Path(os.environ["RECORDED"])


def _recorded(data: bytes, *, name: str = "manifest.json") -> Manifest:
    path = _folder / hashlib.sha256(data).hexdigest()[:24]
    path.write_bytes(data)
    try:
        return _parse(data, name=name)
    except ManifestError as error:
        if name == "manifest.json":
            path.with_suffix(".json").write_text(json.dumps([error.message, *error.details]))
        raise


manifest_parser.manifest_from_bytes = _recorded
