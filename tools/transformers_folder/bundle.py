"""Write a module and all that it uses of this repository into one source file.

The definitions that the entry module reaches are copied as they stand, with their comments, each after those that it
needs at once. Imports from other packages are gathered at the head.
"""

import ast
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from pprint import pformat
from typing import Any

Place = tuple[str, str]
"""Module and name of a definition."""


class BundleError(ValueError):
    """A source uses something that cannot be copied into one file; the message names it."""


@dataclass(frozen=True)
class Source:
    """A parsed module.

    Attributes:
        name: Dotted name.
        lines: Of the text.
        nodes: Top-level statements that bind a name, by name.
        imports: Local name -> (module, name in it, or "" for the module itself).
    """

    name: str
    lines: list[str]
    nodes: dict[str, ast.stmt] = field(default_factory=dict)
    imports: dict[str, Place] = field(default_factory=dict)

    @property
    def bound(self) -> set[str]:
        """All names of the module."""
        return self.nodes.keys() | self.imports.keys()


@cache
def read_source(name: str) -> Source:
    """Parse a module without running it."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise BundleError(f"module {name} has no source")
    text = Path(spec.origin).read_text(encoding="utf-8")
    source = Source(name, text.splitlines())
    package = name if spec.submodule_search_locations is not None else name.rpartition(".")[0]
    for node in ast.parse(text).body:
        if name.startswith("timm.") and isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            node.decorator_list.clear()  # they register functions with torch.fx
        if isinstance(node, ast.Import):
            source.imports.update({alias.asname or alias.name: _split(alias) for alias in node.names})
        elif isinstance(node, ast.ImportFrom):
            module = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            source.imports.update({alias.asname or alias.name: (module, alias.name) for alias in node.names})
        else:
            source.nodes.update(dict.fromkeys(_bound_by(node), node))
    return source


def _split(alias: ast.alias) -> Place:
    """`import a.b as c` is `from a import b as c`."""
    module, _, name = alias.name.rpartition(".") if alias.asname else ("", "", "")
    return (module, name) if module else (alias.name, "")


def _bound_by(node: ast.stmt) -> list[str]:
    """Names that a top-level statement binds; those of an `if` or `try` are bound by its parts."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return [node.name]
    if isinstance(node, (ast.Assign, ast.AnnAssign)):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return [target.id for target in targets if isinstance(target, ast.Name)]
    if isinstance(node, ast.Try):
        inner = [part for part in ast.walk(node) if isinstance(part, (ast.Assign, ast.ImportFrom))]
        imported = [
            alias.asname or alias.name for part in inner if isinstance(part, ast.ImportFrom) for alias in part.names
        ]
        return imported + [name for part in inner if isinstance(part, ast.Assign) for name in _bound_by(part)]
    return []


class Bundle:
    """A file that is put together from definitions.

    Args:
        inlined: Packages whose definitions are copied; all others are imported.
        replaced: Definitions that others stand for: place -> place, or a literal in place of a name.
        constants: Values to write out instead of the code that computes them.
    """

    def __init__(
        self, inlined: Sequence[str], replaced: Mapping[Place, Place | str] = {}, constants: Mapping[Place, Any] = {}
    ):
        self.inlined, self.replaced, self.constants = tuple(inlined), replaced, constants
        self.names: dict[Place, str] = {}  # in the file
        self.blocks: list[str] = []
        self.imports: dict[str, Place] = {}
        self._written: set[tuple[str, int]] = set()

    def add(self, entry: str) -> None:
        """Add all definitions of a module and what they use."""
        source = read_source(entry)
        for local, place in source.imports.items():
            if self._is_inlined(place[0]) and place not in self.replaced:
                self.names[self._origin(place)] = local  # the entry's names for things are kept
        for name in source.nodes:
            self.names[entry, name] = name
        for name in source.nodes:
            self.name_of((entry, name))

    def text(self, head: str) -> str:
        """Return the file: head, imports, definitions."""
        return "\n".join([head.rstrip(), "", *self._import_lines(), "", "", *self.blocks])

    def name_of(self, place: Place) -> str:
        """Return the name in the file of a definition, adding it and what it takes."""
        place = self._origin(place)
        instead = self.replaced.get(place, place)
        if isinstance(instead, str):
            return instead
        module, name = instead
        source = read_source(module)
        if name not in source.nodes:
            raise BundleError(f"{module} defines no {name or 'value that could stand for a module'}")
        if instead not in self.names:
            taken = name in self.names.values() or name in self.imports
            self.names[instead] = f"{name}_{module.rpartition('.')[2]}" if taken else name
        self._write(source, name)
        return self.names[instead]

    def _origin(self, place: Place) -> Place:
        """Follow imports of copied packages to the definition."""
        module, name = place
        while self._is_inlined(module) and name in (imports := read_source(module).imports):
            module, name = imports[name]
        return module, name

    def _is_inlined(self, module: str) -> bool:
        return module.split(".")[0] in self.inlined

    def _write(self, source: Source, name: str) -> None:
        """Add the statement that binds a name, after what it uses."""
        node = source.nodes[name]
        key = source.name, node.lineno
        if key in self._written:
            return
        self._written.add(key)
        if (source.name, name) in self.constants:
            value = pformat(self.constants[source.name, name], sort_dicts=False)
            self.blocks.append(f"{self.names[source.name, name]} = {value}\n\n")
            return
        names = {}
        for part in ast.walk(node):
            if isinstance(part, ast.Name) and part.id in source.bound and part.id not in names:
                names[part.id] = self._resolved(source, part.id)
        if not isinstance(node, ast.Try):
            names[name] = self.names[source.name, name]
        self.blocks.append(_renamed(source, node, names) + "\n\n")

    def _resolved(self, source: Source, local: str) -> str:
        """Return the name in the file of what a module calls `local`; imports from other packages keep theirs."""
        place = source.imports.get(local, (source.name, local))
        if self._is_inlined(place[0]) or place in self.replaced:
            return self.name_of(place)
        if self.imports.setdefault(local, place) != place or local in self.names.values():
            raise BundleError(f"two things are called {local}: one of {place[0]}, one of {self.imports[local][0]}")
        return local

    def _import_lines(self) -> list[str]:
        plain, gathered = [], {}
        for local, (module, name) in sorted(self.imports.items()):
            if not name:
                plain.append(f"import {module}" + (f" as {local}" if local != module.partition(".")[0] else ""))
            else:
                gathered.setdefault(module, []).append(name if name == local else f"{name} as {local}")
        return sorted(plain) + [
            f"from {module} import {', '.join(names)}" for module, names in sorted(gathered.items())
        ]


def _renamed(source: Source, node: ast.stmt, names: Mapping[str, str]) -> str:
    """Return the text of a statement with the comments above it, and its names as in the file."""
    first = min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", []))]) - 1
    edits = [
        (part.lineno - 1, part.col_offset, part.id)
        for part in ast.walk(node)
        if isinstance(part, ast.Name) and names.get(part.id, part.id) != part.id
    ]
    lines = list(source.lines)
    for row, column, name in sorted(edits, reverse=True):
        data = lines[row].encode()
        lines[row] = (data[:column] + names[name].encode() + data[column + len(name) :]).decode()
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        keyword = f"{'class' if isinstance(node, ast.ClassDef) else 'def'} "
        own = names[node.name]
        lines[node.lineno - 1] = lines[node.lineno - 1].replace(keyword + node.name, keyword + own, 1)
    while first > 0 and source.lines[first - 1].startswith("#"):
        first -= 1
    return "\n".join(lines[first : node.end_lineno])
