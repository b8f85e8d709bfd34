"""`meridian tenants add|rotate|revoke|list|show`."""

import json
import os
import secrets
import string
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from gateway.cli.loading import load_gateway, load_tenants
from gateway.cli.terminal import stdout
from gateway.up.problems import CommandFailed

if TYPE_CHECKING:
    from gateway.config import GatewayConfig

tenants = typer.Typer(no_args_is_help=True)

ConfigFile = Annotated[Path, typer.Option("--config", "-c", help="The gateway's YAML file.")]
AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]
TenantName = Annotated[str, typer.Argument(help="The tenant's id, or its name if only one has it.")]
Label = Annotated[str, typer.Option(help="For people: where the key is used.")]
Expires = Annotated[
    str | None, typer.Option("--expires", help="When the key ends: a span such as 90d, 12h, or a date.")
]

UNITS_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
SHOWN: Final = 12
"""Digits of a digest that name a key to people."""


@tenants.callback()
def _group() -> None:
    """Keep the tenants file: who may call, and with which keys.

    The file that the configuration names is checked as a whole and replaced in one go, so running gateways
    take it over at once and whole. It is written anew from what it says: comments in it are lost, and the
    file as it was stands beside it as .bak. Keys stand in it only as digests; a new key is shown once.
    """


@tenants.command()
def add(
    name: Annotated[str, typer.Argument(help="For people.")],
    config: ConfigFile,
    index: Annotated[str | None, typer.Option(help="Index of its calls that name none.")] = None,
    namespace: Annotated[str | None, typer.Option(help="Namespace of its calls that name none.")] = None,
    label: Label = "",
    expires: Expires = None,
    as_json: AsJson = False,
) -> None:
    """Add a tenant with a new id and one key.

    What else it may have (grants, limits, a budget) is written into the file.

    Example: meridian tenants add Acme --index docs --config meridian.yaml
    """
    loaded = load_gateway(config)
    id_ = "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(16))
    defaults = {
        key: value for key, value in (("index", index), ("namespace", namespace)) if value is not None
    }
    key, entry = _new_key(loaded, config, label, expires)
    with _edited(loaded, config) as tree:
        tree.setdefault("tenants", []).append(
            {"id": id_, "name": name, "keys": [entry], **({"defaults": defaults} if defaults else {})}
        )
    _tell_key(id_, key, entry, as_json=as_json)


@tenants.command()
def rotate(
    tenant: TenantName,
    config: ConfigFile,
    key: Annotated[
        str | None, typer.Option("--key", help="The key to replace, by label or first digits. [the only one]")
    ] = None,
    overlap: Annotated[str, typer.Option(help="How long the old key goes on, such as 24h.")] = "24h",
    expires: Expires = None,
    as_json: AsJson = False,
) -> None:
    """Give a key a successor with the same label, limits and grants; the old one ends after the overlap.

    Example: meridian tenants rotate Acme --overlap 24h --config meridian.yaml
    """
    loaded = load_gateway(config)
    ends = _when(overlap)
    new, entry = _new_key(loaded, config, "", expires)
    with _edited(loaded, config) as tree:
        found = _tenant(tree, tenant)
        old = _key(found, key)
        entry = {**{k: v for k, v in old.items() if k != "expires"}, **{k: v for k, v in entry.items() if v}}
        known = old.get("expires")
        old["expires"] = ends if known is None else min(_utc(known), ends)
        found["keys"].append(entry)
        id_ = found["id"]
    _tell_key(id_, new, entry, as_json=as_json)


@tenants.command()
def revoke(
    tenant: TenantName,
    config: ConfigFile,
    key: Annotated[str | None, typer.Option("--key", help="By label or first digits. [the only one]")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every key of the tenant.")] = False,
) -> None:
    """Take a key out of the file: it opens nothing any more, as soon as gateways have seen it.

    Example: meridian tenants revoke Acme --key website --config meridian.yaml
    """
    loaded = load_gateway(config)
    with _edited(loaded, config) as tree:
        found = _tenant(tree, tenant)
        gone = [*found.get("keys", [])] if all_ else [_key(found, key)]
        found["keys"] = [each for each in found.get("keys", []) if each not in gone]
    for each in gone:
        stdout().print(f"revoked {each['digest'][:SHOWN]} {each.get('label', '')}".rstrip(), markup=False)


@tenants.command("list")
def list_(config: ConfigFile, as_json: AsJson = False) -> None:
    """Every tenant, with its keys and limits.

    Example: meridian tenants list --config meridian.yaml
    """
    loaded = load_gateway(config)
    found = [each.model_dump(mode="json") for each in load_tenants(loaded, config).tenants]
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    from rich.markup import escape
    from rich.table import Table

    table = Table("id", "name", "keys", "requests/min", "tokens/min", "budget USD", box=None, pad_edge=False)
    for each in found:
        limits, budget = each["limits"], each["budget"]
        table.add_row(
            each["id"],
            escape(each["name"]),
            str(len(each["keys"])),
            str(limits["requests_per_min"] or "-"),
            str(limits["tokens_per_min"] or "-"),
            "-" if budget is None else f"{budget['monthly_usd']:g}",
        )
    stdout().print(table)


@tenants.command()
def show(tenant: TenantName, config: ConfigFile, as_json: AsJson = False) -> None:
    """One tenant with everything that is in force for it, its defaults too.

    Example: meridian tenants show Acme --config meridian.yaml
    """
    from regions.runtime.strict_yaml import to_yaml

    loaded = load_gateway(config)
    file = load_tenants(loaded, config).model_dump(mode="json")
    found = _tenant(file, tenant)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        stdout().print(to_yaml(found), markup=False, end="")


# --- The file --------------------------------------------------------------------------------------


@contextmanager
def _edited(loaded: "GatewayConfig", config: Path) -> Iterator[dict[str, Any]]:
    """The file's tree, to be changed in the block; then checked as a whole and put in its place in one go.

    Raises: ConfigError: it was wrong before, or would be now; nothing was written.
    """
    import fcntl

    from gateway.tenants_file import TenantsFile, check_tenants
    from regions.runtime.config_file import load
    from regions.runtime.strict_yaml import parse_yaml, to_yaml

    path = (config.parent / loaded.tenants.file).resolve()  # what a link points at is replaced, not the link
    with (path.parent / f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before, mode = "", 0o600
        if path.exists():
            load_tenants(loaded, config)
            before, mode = path.read_text(), path.stat().st_mode & 0o777
        tree = parse_yaml(before)
        yield tree
        new = path.with_name(f".{path.name}.new")
        try:
            _write(new, to_yaml(tree), mode)
            places = loaded.regions.places if loaded.regions is not None else ()
            load(new, TenantsFile, {}, lambda file: check_tenants(file, loaded.indexes, places))
            if before:
                _write(path.with_name(f"{path.name}.bak"), before, mode)
            new.rename(path)
        finally:
            new.unlink(missing_ok=True)


def _write(path: Path, text: str, mode: int) -> None:
    """On disk on return, never for a moment readable by more than the file it replaces."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _tenant(tree: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Raises: CommandFailed: there is none, or several have the name."""
    every: list[dict[str, Any]] = tree.get("tenants", [])
    found = [each for each in every if each["id"] == name] or [each for each in every if each["name"] == name]
    if len(found) == 1:
        return found[0]
    if found:
        ids = ", ".join(each["id"] for each in found)
        raise CommandFailed(f"{len(found)} tenants are called {name!r}", f"name one by its id: {ids}", code=2)
    raise CommandFailed(f"there is no tenant {name!r}", "`meridian tenants list` shows them", code=2)


def _key(tenant: Mapping[str, Any], name: str | None) -> dict[str, Any]:
    """Raises: CommandFailed: there is none, or several could be meant."""
    keys: list[dict[str, Any]] = tenant.get("keys", [])
    found = [
        each
        for each in keys
        if name is None or each.get("label") == name or (len(name) >= 6 and each["digest"].startswith(name))
    ]
    if len(found) == 1:
        return found[0]
    known = ", ".join(f"{each['digest'][:SHOWN]} {each.get('label', '')}".rstrip() for each in keys) or "none"
    what = "has no such key" if not found else "has several keys" if name is None else "has several such keys"
    raise CommandFailed(f"the tenant {tenant['id']} {what}", f"name one with --key; it has: {known}", code=2)


def _new_key(
    loaded: "GatewayConfig", config: Path, label: str, expires: str | None
) -> tuple[str, dict[str, Any]]:
    """A key nobody can guess, and its entry for the file."""
    from gateway.tenants import digest_key
    from gateway.up.keys import new_key
    from regions.runtime.config_file import resolve_secret

    pepper = resolve_secret(loaded.tenants.pepper, config.parent, os.environ)
    key = new_key()
    entry: dict[str, Any] = {"digest": digest_key(key, pepper.encode())}
    if label:
        entry["label"] = label
    if expires is not None:
        entry["expires"] = _when(expires)
    return key, entry


def _tell_key(tenant: str, key: str, entry: Mapping[str, Any], *, as_json: bool) -> None:
    expires = entry.get("expires")
    if as_json:
        told = {"tenant": tenant, "key": key, "digest": entry["digest"]}
        typer.echo(json.dumps({**told, "expires": None if expires is None else expires.isoformat()}))
        return
    stdout().print(f"tenant {tenant}", markup=False)
    stdout().print(f"key    {key}", markup=False)
    stdout().print(
        "       It is shown this once: the file holds its digest alone.", style="dim", markup=False
    )


def _when(text: str) -> datetime:
    """A moment from now by a span, or a date. Raises: CommandFailed: it is neither."""
    number, unit = text[:-1], text[-1:]
    if unit in UNITS_S and number.isdecimal():
        return (datetime.now(UTC) + timedelta(seconds=int(number) * UNITS_S[unit])).replace(microsecond=0)
    try:
        return _utc(datetime.fromisoformat(text))
    except ValueError:
        raise CommandFailed(
            f"{text!r} is no span and no date", "write 90d, 12h or 2027-01-31", code=2
        ) from None


def _utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
