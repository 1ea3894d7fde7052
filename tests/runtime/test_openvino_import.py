"""OpenVINO's import without its model conversion, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from .graphs import linear_graph

IMPORT = "from resnet_runtime.backends.openvino_import import openvino_without_conversion as imported; "
LEFT_OUT = ("openvino.tools.ovc", "openvino.tools.ovc.convert", "openvino_telemetry", "urllib.request")


def said(code: str, *arguments: str) -> str:
    return subprocess.check_output([sys.executable, "-W", "error", "-c", code, *arguments], text=True).strip()


def left_out(code: str) -> list[str]:
    """What the process has not imported by then."""
    return said(f"{code}; import sys; print(*(name for name in {LEFT_OUT} if name not in sys.modules))").split()


def test_the_conversion_and_its_reporting_are_not_imported() -> None:
    assert left_out(f"{IMPORT}imported().Core()") == list(LEFT_OUT)
    assert left_out("import openvino") == [], "what this leaves out is there otherwise"


def test_the_program_can_convert_a_model_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "linear.onnx"
    path.write_bytes(linear_graph())
    code = (
        f"{IMPORT}import sys; openvino = imported(); first = openvino.convert_model\n"
        "print(len(first(sys.argv[1]).outputs))\n"
        "from openvino import convert_model; import openvino.tools.ovc as ovc\n"
        "print(convert_model is ovc.convert_model, convert_model is not first, len(convert_model(sys.argv[1]).outputs))"
    )
    assert said(code, str(path)).splitlines() == ["2", "True True 2"]


@pytest.mark.parametrize("before", ["import openvino", "import openvino.tools.ovc"])
def test_what_the_program_imported_before_is_left_as_it_is(before: str) -> None:
    code = f"{before}; {IMPORT}import openvino.tools.ovc as ovc; "
    assert said(f"{code}print(imported() is openvino, openvino.convert_model is ovc.convert_model)") == "True True"


def test_another_thread_waits_for_the_import() -> None:
    """It comes by the stand-in while the first one is still importing."""
    code = (
        f"{IMPORT}import sys, threading, time, importlib\n"
        "slow = importlib.import_module\n"
        "def importing(name, *rest):\n"
        "    if name == 'openvino': started.set(); time.sleep(1)\n"
        "    return slow(name, *rest)\n"
        "started, found = threading.Event(), []\n"
        "importlib.import_module = importing\n"
        "first = threading.Thread(target=imported); first.start(); started.wait()\n"
        "from openvino.tools.ovc import convert_model, is_optimum\n"
        "try: convert_model('no such file')\n"
        "except RecursionError: print('recursion')\n"
        "except Exception: print('asked', is_optimum.__module__.split('.')[0])\n"
        "first.join()"
    )
    assert said(code) == "asked openvino"


def test_an_import_that_fails_leaves_no_stand_in() -> None:
    code = (
        f"{IMPORT}import sys; sys.modules['openvino._pyopenvino'] = None\n"
        "try: imported()\nexcept ImportError: print('openvino.tools.ovc' in sys.modules)"
    )
    assert said(code) == "False"
