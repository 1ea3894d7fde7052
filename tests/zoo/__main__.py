"""``make zoo``: every network, one process each, and docs/models.md. What was measured before is kept in build/zoo.

An hour or more on two cores; ``python -m tests.zoo resnetv2_*`` measures those anew and leaves the rest as it was.
"""

from __future__ import annotations

import fnmatch
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Final

import click

from resnet_export.errors import ArchitectureError
from resnet_export.fingerprints import Candidate, ambiguous_candidates

from .bare import builder_of
from .networks import built, names
from .rows import Row, row_of

ROOT: Final = Path(__file__).parents[2]
KEPT: Final = ROOT / "build" / "zoo"
PAGE: Final = ROOT / "docs" / "models.md"
SECONDS: Final = 1200
"""That one network may take."""

ABOUT: Final = (
    "Each network has seeded random weights and BatchNorm statistics of varied images, and goes from the module to "
    "engines. *Folded* BatchNorms went into a convolution or a linear layer, those *apart* became one scale and shift. "
    "The error is the folded graph's from the module in float64, in millionths of the spread, beside what the design "
    "allows. FP16: the largest error, of the spread. INT8: the centred cosine of the graph for TensorRT, rounded to "
    "the nearest and unequalized, which an export betters. Both say that the graphs compute what they should and not "
    "how exact a trained network is: random weights blow rounding up with depth."
)
BARE: Final = (
    "From a *bare state_dict*, bit-equal to the module, a network is built by this project's own code (here) or by its "
    "library's; where other networks have all of its tensors, `--arch` or `--reference` has to say which it is."
)
SHARING: Final = (
    "Every tensor's name and shape is the same, and what is computed is not: without `--arch` and `--reference` their "
    "state_dicts are refused, unless the file itself says what it is. Names for one and the same network stand in "
    "parentheses."
)
HEADING: Final = (
    *(
        "network",
        "parameters",
        "bare state_dict",
        "traced by",
        "folded",
        "apart",
        "error / allowed",
        "FP16",
        "INT8",
        "TensorRT-RTX",
    ),
    "failure",
)


def main(patterns: Sequence[str]) -> int:
    """Measure, write the page, print the rates; 1 where less than 99% export or build."""
    if patterns[:1] == ["--one"]:
        click.echo(json.dumps(row_of(*patterns[1:3]).to_json()))
        return 0
    KEPT.mkdir(parents=True, exist_ok=True)
    rows = []
    known = names()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for number, row in enumerate(pool.map(lambda item: _kept(*item, patterns), known), start=1):
            rows.append(row)
            click.echo(f"{number}/{len(known)}  {row.library}:{row.name}  {row.failure or 'ok'}", err=True)
    PAGE.write_text(page(rows, [recognized(*item) for item in known]))
    for line in rates(rows):
        click.echo(line)
    return 0 if min(_share(rows, exported), _share(rows, compiled)) >= 0.99 else 1


def _kept(library: str, name: str, patterns: Sequence[str]) -> Row:
    path = KEPT / f"{library}-{name}.json"
    if not path.exists() or any(fnmatch.fnmatch(name, pattern) for pattern in patterns):
        path.write_text(_measured(library, name))
    return Row(**json.loads(path.read_text()))


def _measured(library: str, name: str) -> str:
    """In a process of its own, so that no memory adds up and a crash is a row."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.zoo", "--one", library, name]
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},  # there are as many processes as cores
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return json.dumps(Row(library=library, name=name, failure=f"it took over {SECONDS} seconds").to_json())
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines:
        failure = f"its process ended with {done.returncode}"
        return json.dumps(Row(library=library, name=name, failure=failure).to_json())
    return lines[-1]


def exported(row: Row) -> bool:
    """Without BatchNormalization, and within the design's bound."""
    return row.within


def compiled(row: Row) -> bool:
    """By TensorRT-RTX, in FP16 and INT8."""
    return set(row.engines) == {"fp16", "int8"}


def _share(rows: Sequence[Row], which: Callable[[Row], bool]) -> float:
    return sum(map(which, rows)) / max(1, len(rows))


def rates(rows: Sequence[Row]) -> list[str]:
    """What the suite comes to."""
    count = len(rows)
    made, engines = (f"{sum(map(which, rows))} ({_share(rows, which):.1%})" for which in (exported, compiled))
    return [
        f"{count} networks",
        f"{made} export, without BatchNormalization and within the bound",
        f"{engines} parse and build with TensorRT-RTX in FP16 and INT8",
    ]


def recognized(library: str, name: str) -> str:
    """By whose code a bare state_dict of it is built."""
    tensors = built(library, name, "meta").state_dict()
    try:
        return builder_of(tensors) or "--arch"
    except ArchitectureError:
        return "no"


def _sharing(candidates: Sequence[Candidate]) -> str:
    parts = []
    for first, *others in (candidate.names for candidate in candidates):
        parts.append(f"`{first}`" + (f" ({', '.join(f'`{other}`' for other in others)})" if others else ""))
    return f"- {', '.join(parts)}"


def page(rows: Sequence[Row], bare: Sequence[str]) -> str:
    """docs/models.md: a row of each network, and by whose code its bare state_dict is built."""
    libraries = ", ".join(f"{name} {version(name)}" for name in ("timm", "torchvision", "transformers"))
    lines = [
        "# Models",
        "",
        f"Written by `make zoo` with {libraries}. {ABOUT}",
        "",
        BARE,
        "",
        *(f"- {line}" for line in rates(rows)),
        "",
        f"| {' | '.join(HEADING)} |",
        f"|{'---|' * len(HEADING)}",
        *map(_line, rows, bare),
        "",
        "## Networks that have the same tensors",
        "",
        SHARING,
        "",
        *map(_sharing, ambiguous_candidates()),
    ]
    return "\n".join(lines) + "\n"


def _line(row: Row, bare: str) -> str:
    cells = (
        f"{row.library}:{row.name}",
        f"{row.parameters / 1e6:.1f} M",
        bare,
        row.traced,
        str(row.folded),
        str(row.apart),
        f"{1e6 * row.error:.2g} / {1e6 * row.allowed:.2g}",
        f"{row.fp16:.2%}",
        f"{row.int8:.3f}",
        ", ".join(row.engines),
        row.failure or "",
    )
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
