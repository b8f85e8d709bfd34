"""Who may import whom, read from the imports themselves, so that drift is seen in the change that drifts.

A layer imports itself and what stands below it in the table, never what stands above.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parent.parent

LAYERS: Final = {
    "gateway": (
        ("__main__",),
        ("cli",),
        ("up", "quality", "monitoring"),
        ("app", "replication"),
        ("llm",),
        ("generations", "reload"),
        ("edge", "pipelines", "limits", "caching"),
        ("connect",),
        ("stages",),
        ("admission",),
        ("config_checks", "imports", "ingest", "budget_metrics"),
        ("budgets",),
        ("config",),
        ("providers", "embedders", "caches", "limiters"),
        ("shared_store",),
        ("policies", "wire"),
    ),
    "regions": (
        ("tails",),
        ("node", "promotion", "verify"),
        ("replicator",),
        ("live",),
        ("fences",),
        ("logs", "replicas", "journals"),
        ("homes",),
        ("registers",),
    ),
}
"""What is not named lies lowest: the values that everything speaks in."""

VALUES: Final = ("regions.replicator.watermarks", "regions.replicator.canary")
"""Lie lowest too: what a replicator tells everyone stands beside the replicator."""

PURE: Final = (
    "gateway.console",
    *("gateway.policies", "gateway.wire", "gateway.routes", "gateway.catalogue", "gateway.messages"),
    *(
        "gateway.errors",
        "gateway.tenants",
        "gateway.allowances",
        "regions.names",
        "regions.records",
        "regions.positions",
    ),
    *(
        "regions.changes",
        "regions.change_codec",
        "regions.retention",
        "regions.filters",
        "regions.pinecone_api",
        "regions.record_checks",
        "regions.errors",
        "regions.topology",
        "regions.orders",
        "regions.selection",
        "regions.status",
    ),
    *(
        "regions.replicator.canary",
        "regions.replicator.coalesce",
        "regions.replicator.digest",
        "regions.replicator.follower",
        "regions.replicator.lane",
        "regions.replicator.moves",
        "regions.replicator.watermarks",
    ),
)
IMPURE: Final = {"asyncio", "aiohttp", "time", "random", "os", "logging"}
PLUGINS: Final = (
    "gateway.providers.",
    "gateway.embedders.",
    "regions.replicas.",
    "regions.logs.",
    "regions.registers.",
    "regions.journals.",
)

Import = tuple[str, str]
"""(module that imports, module imported)"""


def imports() -> Iterator[Import]:
    """Every import of our two packages, also those inside functions and for type checking."""
    for package in LAYERS:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Import):
                    yield from ((name, alias.name) for alias in node.names)
                elif isinstance(node, ast.ImportFrom):
                    assert node.level == 0, f"{name}: imports are absolute"
                    module = str(node.module)
                    yield from ((name, target(module, alias.name)) for alias in node.names)


def target(module: str, name: str) -> str:
    """The module that `from module import name` means."""
    if module == "aiohttp":
        return f"{module}.{name}"
    path = ROOT.joinpath(*module.split("."), name)
    return f"{module}.{name}" if path.is_dir() or path.with_suffix(".py").is_file() else module


def rank(module: str) -> tuple[int, str]:
    """How high a module of ours stands (0 is the top), and the part of its package it belongs to."""
    package, _, rest = module.partition(".")
    part = rest.partition(".")[0]
    layers = LAYERS[package]
    lowest = len(layers)
    if module in VALUES:
        return lowest, module
    return next((place for place, parts in enumerate(layers) if part in parts), lowest), part


def is_in(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


@pytest.fixture(scope="module")
def all_imports() -> list[Import]:
    return list(imports())


@pytest.mark.parametrize("package", LAYERS)
def test_a_layer_imports_only_itself_and_what_is_below(package: str, all_imports: list[Import]) -> None:
    wrong = []
    for importer, imported in all_imports:
        if not (is_in(importer, package) and is_in(imported, package)) or imported == package:
            continue
        (here, part), (there, other) = rank(importer), rank(imported)
        is_value = here == there == len(LAYERS[package])
        if not (there > here or part == other or is_value):
            wrong.append(f"{importer} imports {imported}")
    assert not wrong


def test_the_state_never_imports_the_edge(all_imports: list[Import]) -> None:
    assert not [i for i in all_imports if is_in(i[0], "regions") and is_in(i[1], "gateway")]


def test_the_runtime_knows_neither_package_but_for_the_error_tree(all_imports: list[Import]) -> None:
    allowed = ("regions.runtime", "regions.errors")
    wrong = [
        (importer, imported)
        for importer, imported in all_imports
        if is_in(importer, "regions.runtime")
        and (is_in(imported, "regions") or is_in(imported, "gateway"))
        and not any(is_in(imported, name) for name in allowed)
    ]
    assert not wrong


def test_a_decision_never_does_io(all_imports: list[Import]) -> None:
    wrong = [
        (importer, imported)
        for importer, imported in all_imports
        if any(is_in(importer, name) for name in PURE) and imported.partition(".")[0] in IMPURE
    ]
    assert not wrong


def test_only_the_edge_and_the_node_speak_http_to_callers(all_imports: list[Import]) -> None:
    """And `gateway.app`, which puts the edge's applications on sockets."""
    servers = {importer for importer, imported in all_imports if imported.startswith("aiohttp.web")}
    assert not [
        name
        for name in servers
        if not is_in(name, "gateway.edge") and not is_in(name, "regions.node") and name != "gateway.app"
    ]


def test_stages_know_plugins_only_by_their_contract(all_imports: list[Import]) -> None:
    wrong = [
        (importer, imported)
        for importer, imported in all_imports
        if is_in(importer, "gateway.stages") or importer == "gateway.pipelines"
        if imported.startswith(PLUGINS) and not imported.endswith(".base")
    ]
    assert not wrong
