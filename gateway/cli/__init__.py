"""The `meridian` command: one file a command, imported only when that command is asked for.

Exit codes: 0 done, 1 it failed, 2 the command line or the configuration is wrong, 130 interrupted.
"""

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

import typer

from regions.runtime.parent import bind_to_parent

COMMANDS: Final[dict[str, str]] = {
    "up": "Start three regions here, ask each a question, keep them running.",
    "ask": "Ask a question; stream the answer and its sources.",
    "ingest": "Put files into a namespace: .jsonl .md .txt .html",
    "serve": "Run a gateway.",
    "node": "Run the embedded vector index.",
    "replicate": "Apply every region's changes to this region's indexes.",
    "index": "Create indexes in every region of a configuration.",
    "check-config": "Name every problem of a configuration.",
    "config": "Show a configuration, or a commented example.",
    "tenants": "Keep the tenants file: add, rotate, revoke keys.",
    "status": "Show whether a gateway is ready, or how every region does.",
    "receipt": "Show what became of a request, or the last ones.",
    "budgets": "Show what tenants have spent of their monthly budgets.",
    "models": "List the models that tenants may name, with their prices.",
    "cost": "Show what models cost, by tenant, model, day.",
    "promote": "Move the home of an index to another region.",
    "verify": "Compare every record of every replica, and repair.",
    "replica": "Tell a region's replicator what to do with a namespace.",
    "version": "Print the version.",
}
"""Every command and its line of help. The file is the name with `_` for `-`; so is the function."""

EPILOG: Final = "First steps:  meridian up   then   meridian ask 'who wrote the opera carmen?'"


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command and exit with its code."""
    bind_to_parent(os.environ)
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        _app(_chosen(arguments))(args=arguments, prog_name="meridian")
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        from gateway.cli.terminal import explain

        code = explain(error)
        if code is None:
            raise
        sys.exit(code)


def _chosen(arguments: Sequence[str]) -> str | None:
    return next((word for word in arguments if not word.startswith("-")), None)


def _app(chosen: str | None) -> typer.Typer:
    """All commands by name and help, only the chosen one with its code."""
    app = typer.Typer(
        name="meridian",
        help="A multi-region gateway for retrieval-augmented generation.",
        epilog=EPILOG,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,  # plain help: rich alone would double the time of --help
    )
    for name, line in COMMANDS.items():
        if name != chosen:
            app.command(name, help=line)(_not_chosen)
            continue
        found = _load(name)
        if isinstance(found, typer.Typer):
            app.add_typer(found, name=name, help=line)
        else:
            app.command(name)(found)
    app.callback()(_nothing)
    return app


def _load(name: str) -> Callable[..., Any] | typer.Typer:
    attribute = name.replace("-", "_")
    found: Callable[..., Any] | typer.Typer = getattr(
        importlib.import_module(f"gateway.cli.{attribute}"), attribute
    )
    return found


def _not_chosen() -> None:
    raise AssertionError("only the chosen command runs")


def _nothing() -> None:
    """A multi-region gateway for retrieval-augmented generation."""
