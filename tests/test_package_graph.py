"""The package graph: imports only go to lower layers and never in cycles, and no module is too small or too large.

Every import counts, including imports inside functions, under TYPE_CHECKING and with `import_module`.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "src" / "toolhone"

LAYERS = (
    "errors launcher records strict_json rates progress jsonl config config_file fetch hub pretrained run_folder "
    "run_inputs endpoint "
    "tool_schema",
    "formats",
    "chat",
    "data",
    "train",
    "tuned",
    "engines",
    "evaluate",
    "economics",
    "route",
    "report",
    "export",
    "verify",
    "serve",
    "prepare plan pipeline learning_curve doubt doctor new_project",
    "cli",
    "__main__",
)
"""The layers, lowest first. A module may import from its own layer and from lower ones, listed above it."""

MAX_FILES = 300
MAX_LINES = 58_000
MAX_MODULE_LINES = 400
MIN_SHARED_LINES = 60
"""A module shorter than this with a single importer belongs in that importer."""
TABLES = {"data.importers.": ("data.importers", "data.read"), "formats.": ("formats", "formats.parse")}
"""Packages with one importer or format per file, and the modules with their table. Such files may be short."""

Imports = Mapping[str, set[str]]
"""The modules that each module imports. Names are dotted, without the leading `toolhone`; the package itself is ""."""


def test_the_package_graph_follows_the_rules() -> None:
    files = {_module_name(path): path.read_text(encoding="utf-8") for path in sorted(SOURCE.rglob("*.py"))}
    lines = {module: len(text.splitlines()) for module, text in files.items()}
    imports = {module: set(_imported(module, text, files)) for module, text in files.items()}
    packages = {_module_name(path) for path in SOURCE.rglob("__init__.py")}
    found = [*upward(imports), *cycles(imports), *misplaced(imports, lines, packages), *oversized(lines)]
    assert not found, f"{len(found)} violations:\n" + "\n".join(found)


def upward(imports: Imports) -> Iterator[str]:
    """Find imports of a higher layer, and modules without a layer."""
    layer = {name: number for number, names in enumerate(LAYERS) for name in names.split()} | {"": -1}
    for top in sorted({module.partition(".")[0] for module in imports} - set(layer)):
        yield f"no layer: {top} is not in LAYERS"
    for module, others in sorted(imports.items()):
        for other in sorted(others):
            lower, upper = (layer.get(name.partition(".")[0]) for name in (module, other))
            if lower is not None and upper is not None and lower < upper:
                yield f"upward import: {module} imports {other}"


def cycles(imports: Imports) -> Iterator[str]:
    """Find import cycles of modules, and of packages among the children of each package."""
    for group in mutually_reachable(imports):
        yield f"cycle of modules: {' <-> '.join(group)}"
    siblings: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for module, others in imports.items():
        for other in others:
            a, b = module.split("."), other.split(".")
            shared = next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
            if shared < min(len(a), len(b)):
                siblings[".".join(a[:shared])][".".join(a[: shared + 1])].add(".".join(b[: shared + 1]))
    for graph in siblings.values():
        for group in mutually_reachable(graph):
            if not all(name in imports and not any(m.startswith(f"{name}.") for m in imports) for name in group):
                yield f"cycle of packages: {' <-> '.join(group)}"


def mutually_reachable(graph: Mapping[str, Iterable[str]]) -> Iterator[list[str]]:
    """Find strongly connected components of two or more nodes, with Tarjan's algorithm."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []

    def visit(node: str) -> Iterator[list[str]]:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(graph.get(node, ())):
            if other not in index:
                yield from visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            group = stack[stack.index(node) :]
            del stack[-len(group) :]
            if len(group) > 1:
                yield sorted(group)

    for node in sorted(graph):
        if node not in index:
            yield from visit(node)


def misplaced(imports: Imports, lines: Mapping[str, int], packages: set[str]) -> Iterator[str]:
    """Find modules that nothing imports, and short modules that belong in their only importer."""
    importers = defaultdict(set)
    for module, others in imports.items():
        for other in others - {module}:
            importers[other].add(module)
    for module, count in lines.items():
        if module in packages or module == "__main__":
            continue
        if not importers[module]:
            yield f"unused module: {module} ({count} lines)"
        elif len(importers[module]) == 1 and count < MIN_SHARED_LINES:
            (importer,) = importers[module]
            if not any(module.startswith(package) and importer in tables for package, tables in TABLES.items()):
                yield f"short module with one importer: {module} ({count} lines), imported by {importer}"


def oversized(lines: Mapping[str, int]) -> Iterator[str]:
    """Find modules that are too long, and too many files or lines in total."""
    for module, count in lines.items():
        if count > MAX_MODULE_LINES:
            yield f"long module: {module} has {count} lines; at most {MAX_MODULE_LINES}"
    if len(lines) > MAX_FILES:
        yield f"too many files: {len(lines)}; at most {MAX_FILES}"
    if sum(lines.values()) > MAX_LINES:
        yield f"too many lines: {sum(lines.values()):,}; at most {MAX_LINES:,}"


def _module_name(path: Path) -> str:
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix("__init__").rstrip(".")


def _imported(module: str, text: str, modules: Iterable[str]) -> Iterator[str]:
    for node in ast.walk(ast.parse(text)):
        names: list[str] = []
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            # A name built in an f-string may be any module that starts with its first part.
            first = node.args[0].values[0] if isinstance(node.args[0], ast.JoinedStr) else node.args[0]
            start = str(first.value).removeprefix("toolhone.") if isinstance(first, ast.Constant) else None
            yield from (name for name in modules if start is not None and name.startswith(start) and name != module)
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            if name.partition(".")[0] == "toolhone":
                inner = name.partition(".")[2]
                # `from toolhone.a import b` imports the module a.b, or the name b of the module a.
                yield inner if inner in modules else inner.rpartition(".")[0]


# Each rule must find a violation.


def test_upward_imports_and_modules_without_a_layer_are_found() -> None:
    assert list(upward({"data.read": {"report.page"}, "report.page": {"data.read", "errors"}, "errors": {""}})) == [
        "upward import: data.read imports report.page"
    ]
    assert list(upward({"helpers": set()})) == ["no layer: helpers is not in LAYERS"]


def test_cycles_of_modules_and_of_packages_are_found() -> None:
    modules = {"data.read": {"data.files"}, "data.files": {"data.json"}, "data.json": {"data.read"}, "errors": set()}
    assert list(cycles(modules)) == ["cycle of modules: data.files <-> data.json <-> data.read"]
    packages = {"data.check.a": {"data.split.x"}, "data.split.y": {"data.check.b"}, "data.check.b": set()}
    assert list(cycles(packages)) == ["cycle of packages: data.check <-> data.split"]
    across = {"data.a": {"report.b"}, "report.c": {"data.d"}, "report.b": set(), "data.d": {"data.a"}}
    assert list(cycles(across)) == ["cycle of packages: data <-> report"]
    assert list(cycles({"data.check": {"data.check.a"}, "data.check.a": {"data.check.b"}, "data.check.b": set()})) == []


def test_unused_and_short_modules_are_found() -> None:
    imports: Imports = {"a": {"b", "c", "d"}, "b": {"a", "c"}, "formats": {"formats.x"}, "formats.x": set()}
    lines = {"a": 90, "b": 59, "c": 3, "d": 60, "formats": 2, "formats.x": 9, "e": 70}
    assert list(misplaced(imports, lines, {"formats"})) == [
        "short module with one importer: b (59 lines), imported by a",
        "unused module: e (70 lines)",
    ]


def test_imports_in_functions_and_for_type_checking_count() -> None:
    text = (
        "import toolhone.a\nfrom toolhone import b\nif TYPE_CHECKING:\n    from toolhone.c import Thing\n"
        "def f(g):\n    from toolhone.d import e\n    importlib.import_module(f'toolhone.g.{g}')\nimport json\n"
    )
    modules = {"", "a", "b", "c", "d", "d.e", "g.one", "g.two", "h"}
    assert set(_imported("x", text, modules)) == {"a", "b", "c", "d.e", "g.one", "g.two"}
