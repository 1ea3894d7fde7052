"""``resnet-bench compare``."""

from __future__ import annotations

from pathlib import Path

import click

from resnet_runtime.errors import DetailedError

FEW_ROUNDS = ": there are too few rounds for more, so that a row may seem to have changed by chance."


@click.command("compare")
@click.argument("old", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path))
@click.option("--other-host", is_flag=True, help="Even if they are of different hosts.")
def compare_command(old: Path, new: Path, other_host: bool) -> None:
    """What became slower from the record OLD to the record NEW; exit status 1 where something did.

    Each row's ratio to eager is compared, which its own run measured in the same rounds; a row has changed where the
    two intervals, which hold at 95% for all rows together, have nothing in common.
    """
    from .compare import (
        GONE,
        SLOWER,
        changes,
        check_compared,
        check_same_host,
        compare_table,
        held_together,
        record_from_file,
    )
    from .statistics import LEVEL

    try:
        before, after = record_from_file(old), record_from_file(new)
        if not other_host:
            check_same_host(before, after)
        found = changes(before, after)
        check_compared(found)
    except DetailedError as error:
        click.echo(f"Error: {error}", err=True)
        raise SystemExit(error.exit_status) from None
    for line in compare_table(found):
        click.echo(line)
    slower = [change for change in found if change.verdict == SLOWER]
    gone = [change for change in found if change.verdict == GONE]
    click.echo(f"{len(found)} rows: {len(slower)} slower, {len(gone)} not measured any more")
    held = min(held_together(before), held_together(after))
    click.echo(f"The intervals of all rows hold together at {held:.0%}" + (FEW_ROUNDS if held < LEVEL else "."))
    if slower:
        raise SystemExit(1)
