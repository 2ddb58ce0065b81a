"""The minimum cut of a directed graph."""

from collections.abc import Hashable, Iterable
from typing import TypeVar

Node = TypeVar("Node", bound=Hashable)


def minimum_cut(edges: Iterable[tuple[Node, Node, int]], source: Node, sink: Node) -> set[Node]:
    """Return the nodes on the sink's side of a minimum cut, the one with the fewest nodes on that side.

    By the theorem of Ford and Fulkerson, the edges that a maximum flow fills include a minimum cut. The flow is
    increased along shortest paths with capacity left (Edmonds and Karp) until there is none.

    Parameters
    ----------
    edges : iterable of (node, node, int)
        From, to, and capacity. A capacity is at least 0; those of parallel edges add up.
    source, sink : node
        The two nodes to separate.
    """
    left: dict[Node, dict[Node, int]] = {source: {}, sink: {}}  # capacity left, by node and successor
    for a, b, capacity in edges:
        left.setdefault(a, {})[b] = left.setdefault(a, {}).get(b, 0) + capacity
        left.setdefault(b, {}).setdefault(a, 0)
    while path := _shortest_path(left, source, sink):
        flow = min(left[a][b] for a, b in path)
        for a, b in path:
            left[a][b] -= flow
            left[b][a] += flow
    side, todo = {sink}, [sink]
    while todo:
        b = todo.pop()
        reaching = [a for a in left[b] if left[a][b] > 0 and a not in side]
        side.update(reaching)
        todo += reaching
    return side


def _shortest_path(left: dict[Node, dict[Node, int]], source: Node, sink: Node) -> list[tuple[Node, Node]]:
    """Return the edges of a shortest path with capacity left, last edge first; none if there is no path."""
    previous: dict[Node, Node] = {}
    todo = [source]
    for a in todo:
        for b, capacity in left[a].items():
            if capacity > 0 and b not in previous and b != source:
                previous[b] = a
                todo.append(b)
    path, b = [], sink
    while b in previous:
        path.append((previous[b], b))
        b = previous[b]
    return path
