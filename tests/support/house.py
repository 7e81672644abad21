"""The house as its imports draw it: rooms, floors, arrows, arrows that run back up, circles.

    python tests/support/house.py [SRC]

A room is a package below `fsamlab`, or a module that lies beside the packages; an arrow says that one room imports
from another, at once, when a function is called, or for types alone. Rooms stand on floors: one that imports from no
other is on floor 1, every other one floor above the highest that it imports from. Where arrows form a circle no such
order exists; then the order with the fewest arrows that run back up is sought, and those are left out of the floors.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

PACKAGE = "fsamlab"
Arrow = tuple[str, str]


class Import(NamedTuple):
    """One import of a module of the package by another.

    Attributes:
        by, of: dotted names below the package; the package itself is "".
        how: "at once", "when called" or "for types".
        line: of the statement.
    """

    by: str
    of: str
    how: str
    line: int


def modules(src: Path) -> dict[str, Path]:
    """Return dotted name below the package -> file."""
    root = src / PACKAGE
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(src: Path) -> list[Import]:
    """Return every import inside the package, in the order of the files."""
    known = modules(src)
    return [found for name, path in known.items() for found in _imports_of(name, path, known)]


def _imports_of(name: str, path: Path, known: Iterable[str]) -> Iterator[Import]:
    def walk(node: ast.AST, how: str) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                yield from walk(child, "when called")
            elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                yield from walk(child, "for types")
            elif isinstance(child, ast.Import | ast.ImportFrom):
                for of in _named(child, known):
                    if of != name:
                        yield Import(name, of, how, child.lineno)
            else:
                yield from walk(child, how)

    yield from walk(ast.parse(path.read_text(encoding="utf-8")), "at once")


def _named(node: ast.Import | ast.ImportFrom, known: Iterable[str]) -> Iterator[str]:
    """Yield the modules of the package that a statement names; relative imports are not used in this package."""
    if isinstance(node, ast.Import):
        yield from (_below(alias.name) for alias in node.names if _is_ours(alias.name))
    elif node.module is not None and _is_ours(node.module):
        for alias in node.names:
            member = _below(f"{node.module}.{alias.name}")
            yield member if member in known else _below(node.module)


def _is_ours(module: str) -> bool:
    return module.split(".")[0] == PACKAGE


def _below(module: str) -> str:
    return module.removeprefix(PACKAGE).removeprefix(".")


def room(module: str) -> str:
    """Return the room that a module lies in."""
    return module.split(".")[0]


def arrows(found: Iterable[Import]) -> dict[Arrow, list[Import]]:
    """Return `(importing room, imported room)` -> the imports that make the arrow."""
    drawn: dict[Arrow, list[Import]] = {}
    for one in found:
        if room(one.by) != room(one.of) and "" not in (one.by, one.of):
            drawn.setdefault((room(one.by), room(one.of)), []).append(one)
    return drawn


def circles(drawn: Iterable[tuple[str, str]]) -> list[list[str]]:
    """Return the groups of nodes that reach each other."""
    nodes = sorted({node for arrow in drawn for node in arrow})
    next_of: dict[str, set[str]] = {node: set() for node in nodes}
    for by, of in drawn:
        next_of[by].add(of)
    reach = {node: set(next_of[node]) for node in nodes}
    for middle in nodes:  # Warshall
        for node in nodes:
            if middle in reach[node]:
                reach[node] |= reach[middle]
    groups = {tuple(sorted({n for n in nodes if n in reach[node] and node in reach[n]})) for node in nodes}
    return sorted(list(group) for group in groups if len(group) > 1)


def order_of(rooms: Iterable[str], drawn: Iterable[Arrow]) -> list[str]:
    """Return the rooms from the top down with as few arrows back up as moving single rooms can reach."""
    drawn = set(drawn)
    order = sorted(
        rooms, key=lambda name: (sum(of == name for _, of in drawn) - sum(by == name for by, _ in drawn), name)
    )

    def back(order: list[str]) -> int:
        at = {name: i for i, name in enumerate(order)}
        return sum(at[by] > at[of] for by, of in drawn)

    best, moved = back(order), True
    while moved:
        moved = False
        for name in list(order):
            rest = [other for other in order if other != name]
            for i in range(len(order)):
                tried = [*rest[:i], name, *rest[i:]]
                if back(tried) < best:
                    order, best, moved = tried, back(tried), True
                    break
    return order


def floors(rooms: Iterable[str], drawn: Iterable[Arrow]) -> tuple[dict[str, int], list[Arrow]]:
    """Return room -> floor, and the arrows that run back up."""
    rooms, drawn = list(rooms), list(drawn)
    order = order_of(rooms, drawn)
    at = {name: i for i, name in enumerate(order)}
    back = [arrow for arrow in drawn if at[arrow[0]] > at[arrow[1]]]
    level: dict[str, int] = {}
    for name in reversed(order):
        below = [level[of] for by, of in drawn if by == name and (by, of) not in back]
        level[name] = 1 + max(below, default=0)
    return level, back


def main(src: Path) -> None:
    """Print the counts, the floors, and every arrow that runs back up."""
    found = imports(src)
    drawn = arrows(found)
    rooms = sorted({room(name) for name in modules(src) if name})
    level, back = floors(rooms, drawn)
    both = sorted({tuple(sorted(arrow)) for arrow in drawn if arrow[::-1] in drawn})
    lazy = len({(one.by, one.line) for one in found if one.how == "when called"})
    print(f"{len(rooms)} rooms, {max(level.values())} floors, {len(drawn)} arrows, {len(back)} of them back up")
    print(f"{len(circles(drawn))} circles, {len(both)} pairs that import each other, {lazy} lazy imports")
    for number in sorted(set(level.values()), reverse=True):
        for name in sorted(n for n in rooms if level[n] == number):
            goes = ", ".join(sorted(of for by, of in drawn if by == name))
            print(f"{number:>4}  {name:<14}{goes}")
    for by, of in back:
        for one in drawn[by, of]:
            print(f"back  {one.by} -> {one.of} ({one.how}, line {one.line})")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[2] / "src")
