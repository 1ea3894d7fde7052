"""Which integer dot products a CPU has, from what Linux writes of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from resnet_runtime.backends.instructions import host_instructions, instructions_from_cpuinfo

# Shortened, in the words and the layout of real machines.
CASCADE_LAKE = """processor\t: 0
vendor_id\t: GenuineIntel
model name\t: Intel(R) Xeon(R) Platinum 8259CL CPU @ 2.50GHz
flags\t\t: fpu vme sse4_2 avx2 avx512f avx512vl pku avx512_vnni
bugs\t\t: spectre_v1 spectre_v2
"""
SAPPHIRE_RAPIDS = "flags\t\t: fpu avx2 avx512f avx512_vnni avx_vnni amx_bf16 avx512_fp16 amx_tile amx_int8\n"
ALDER_LAKE = "flags\t\t: fpu avx2 avx_vnni\nvmx flags\t: vnmi preemption_timer\n"
SKYLAKE = "flags\t\t: fpu avx2 avx512f avx512vl\n"
GRAVITON2 = "processor\t: 0\nBogoMIPS\t: 243.75\nFeatures\t: fp asimd aes crc32 asimdhp asimddp\nCPU part\t: 0xd0c\n"
GRAVITON3 = "Features\t: fp asimd asimdhp asimddp sve i8mm bf16\n"
RASPBERRY_PI_4 = "Features\t: fp asimd evtstrm crc32 cpuid\n"
RISC_V = "processor\t: 0\nhart\t\t: 1\nisa\t\t: rv64imafdc\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (CASCADE_LAKE, "avx512_vnni"),
        (SAPPHIRE_RAPIDS, "amx_int8"),
        (ALDER_LAKE, "avx_vnni"),
        (SKYLAKE, "none"),
        (GRAVITON2, "dotprod"),
        (GRAVITON3, "i8mm"),
        (RASPBERRY_PI_4, "none"),
        (RISC_V, "unknown"),
        ("", "unknown"),
        ("flags\t\t:\n", "none"),
        ("flags\t\t: my_avx512_vnni avx512_vnni2\n", "none"),
        ("model name\t: flags: avx512_vnni\n", "unknown"),
    ],
)
def test_instructions_from_cpuinfo(text: str, expected: str) -> None:
    assert instructions_from_cpuinfo(text) == expected


def test_only_what_every_processor_has_counts() -> None:
    assert instructions_from_cpuinfo(GRAVITON3 * 4) == "i8mm"
    assert instructions_from_cpuinfo(GRAVITON3 + GRAVITON2) == "dotprod"
    assert instructions_from_cpuinfo(RASPBERRY_PI_4 + GRAVITON2) == "none"


def test_this_host(monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path("/proc/cpuinfo")
    expected = instructions_from_cpuinfo(path.read_text()) if path.exists() else "unknown"
    host_instructions.cache_clear()
    assert host_instructions() == expected

    def refuse(*arguments: object, **options: object) -> str:
        raise PermissionError

    host_instructions.cache_clear()
    monkeypatch.setattr(Path, "read_text", refuse)
    assert host_instructions() == "unknown"
    host_instructions.cache_clear()
