"""What a pass returns."""

from __future__ import annotations

from dataclasses import dataclass

from resnet_export.graph import Graph


@dataclass(frozen=True)
class Skipped:
    """A node to which a pass did not do its ordinary work, and the reason."""

    node: str
    reason: str


@dataclass(frozen=True)
class PassResult:
    """A new graph, what was done to which nodes, and what was skipped, with reasons.

    Attributes:
        graph: the new graph.
        done: the names of the nodes that were changed.
        skipped: those that were not, or not in the ordinary way.
    """

    graph: Graph
    done: tuple[str, ...] = ()
    skipped: tuple[Skipped, ...] = ()
