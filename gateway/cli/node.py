"""`meridian node`."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.up.problems import CommandFailed


def node(
    data_dir: Annotated[
        Path | None, typer.Option(help="Where records are kept; created when it is not there.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on. [default: 127.0.0.1]")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="0 takes a free one. [default: 0]")
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(help="Ask callers for this key: env:NAME or file:PATH. [default: no key]")
    ] = None,
    public_url: Annotated[
        str | None, typer.Option(help="How clients reach it, if not by host and port.")
    ] = None,
    visibility_delay_ms: Annotated[
        int | None, typer.Option(min=0, help="Show a write to reads so much later, as Pinecone does.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="YAML file with these keys and the others.")
    ] = None,
) -> None:
    """Run the embedded vector index: Pinecone's API over SQLite and faiss.

    What it acknowledged survives a kill -9. Once it listens, it prints one line of JSON with its URL.
    Options stand above MERIDIAN__… variables, those above the file.

    Example: meridian node --data-dir ./vectors --port 8501
    """
    from regions.node.config import NodeConfig
    from regions.node.main import main
    from regions.runtime.config_file import read, validate

    given = {
        "data_dir": data_dir,
        "host": host,
        "port": port,
        "api_key": api_key,
        "public_url": public_url,
        "visibility_delay_ms": visibility_delay_ms,
    }
    options = {key: value for key, value in given.items() if value is not None}
    env = {name: value for name, value in os.environ.items() if not _is_given(name, options)}
    tree = {**(read(config) if config else {}), **options}
    if "data_dir" not in tree and "MERIDIAN__DATA_DIR" not in env:
        raise CommandFailed("where should the records be kept?", "say --data-dir ./vectors", code=2)
    reference = env.pop("MERIDIAN__API_KEY", tree.get("api_key"))
    if reference is not None:
        tree["api_key"] = _secret(reference, config.parent if config else Path())
    if config is not None:
        _beside(config, tree)
    sys.exit(main(validate(tree, NodeConfig, env, source=str(config or "options"))))


def _is_given(variable: str, options: dict[str, Any]) -> bool:
    return variable.removeprefix("MERIDIAN__").lower() in options


def _beside(config: Path, tree: dict[str, Any]) -> None:
    """Read paths of the tracing section's secrets from the configuration's folder, as everywhere."""
    section = tree.get("tracing")
    headers = section.get("headers") if isinstance(section, dict) else None
    if isinstance(section, dict) and isinstance(headers, dict):
        tree["tracing"] = {
            **section,
            "headers": {name: _absolute(config, ref) for name, ref in headers.items()},
        }


def _absolute(config: Path, reference: object) -> object:
    if not isinstance(reference, str) or not reference.startswith("file:"):
        return reference
    return f"file:{config.parent.absolute() / Path(reference.removeprefix('file:')).expanduser()}"


def _secret(reference: object, base: Path) -> str:
    from regions.errors import ConfigError, ConfigProblem
    from regions.runtime.config_file import SecretRef, is_reference, resolve_secret

    if not isinstance(reference, str) or not is_reference(reference):
        problem = ConfigProblem(
            "api_key", "must say where the secret is, not be the secret", "write env:NAME or file:PATH"
        )
        raise ConfigError("options", [problem])
    return resolve_secret(SecretRef(reference), base, os.environ)
