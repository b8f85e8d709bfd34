"""`meridian budgets list|show`."""

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from gateway.cli.loading import load_gateway, load_tenants
from gateway.cli.terminal import stdout
from gateway.up.problems import CommandFailed
from regions.names import RegionId

if TYPE_CHECKING:
    from gateway.allowances import Budget
    from gateway.config import GatewayConfig
    from gateway.policies.budget import Account
    from gateway.tenants import Tenant
    from regions.registers.base import Registers

budgets = typer.Typer(no_args_is_help=True)

ConfigFile = Annotated[Path, typer.Option("--config", "-c", help="Any gateway's YAML file.")]
AsJson = Annotated[bool, typer.Option("--json", help="Everything, for programs.")]

CALL_S: Final = 3.0


@budgets.callback()
def _group() -> None:
    """Show what tenants have spent of their monthly budgets, in all regions together."""


@budgets.command("list")
def list_(config: ConfigFile, as_json: AsJson = False) -> None:
    """Every tenant that has a budget: spent, leased to gateways, left.

    The accounts themselves are asked, so it works without any gateway. Exit code 1 when one does not answer.

    Example: meridian budgets list --config meridian.yaml
    """
    found = _read(config, None)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        _show_list(found)
    raise typer.Exit(1 if any(each["problem"] for each in found) else 0)


@budgets.command()
def show(
    tenant: Annotated[str, typer.Argument(help="The tenant's id.")],
    config: ConfigFile,
    as_json: AsJson = False,
) -> None:
    """One tenant's month: what stands in its account, and who holds which lease.

    A lease that is not heard of any more counts as spent until the month ends.

    Example: meridian budgets show 0123456789abcdef --config meridian.yaml
    """
    (found,) = _read(config, tenant)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        _show_one(found)
    raise typer.Exit(1 if found["problem"] else 0)


def _read(path: Path, only: str | None) -> Sequence[Mapping[str, Any]]:
    """What there is to tell of each. Raises: ConfigError, CommandFailed: there is no such budget."""
    config = load_gateway(path)
    tenants = load_tenants(config, path).tenants
    chosen = [each for each in tenants if each.budget is not None and only in (None, each.id)]
    if only is not None and not chosen:
        known = ", ".join(each.id for each in tenants if each.budget is not None) or "none"
        raise CommandFailed(f"no tenant {only!r} has a budget", f"those that have one: {known}", code=2)
    return asyncio.run(_ask(config, path, chosen)) if chosen else []


async def _ask(
    config: "GatewayConfig", path: Path, tenants: "Sequence[Tenant]"
) -> Sequence[Mapping[str, Any]]:
    from functools import partial

    from gateway import connect
    from regions.runtime.config_file import resolve_secret

    async with AsyncExitStack() as stack:
        resolve = partial(resolve_secret, base_dir=path.parent, env=os.environ)
        places = await connect.places(config, resolve, stack)
        registers = {place.region: place.registers for place in places}
        return await asyncio.gather(
            *(
                _of(tenant, tenant.budget, registers, places[0].region)
                for tenant in tenants
                if tenant.budget is not None
            )
        )


async def _of(
    tenant: "Tenant", budget: "Budget", registers: "Mapping[RegionId, Registers]", default: RegionId
) -> Mapping[str, Any]:
    """One tenant's account as its home's registers have it; `problem` says why they do not."""
    from msgspec import DecodeError

    from gateway.policies.budget import decode, key_of
    from regions.errors import LogUnavailable

    home = RegionId(budget.home or default)
    account, problem = None, ""
    try:
        found = await registers[home].get(key_of(tenant.id), timeout_s=CALL_S)
        account = None if found is None else decode(found.value)
    except (LogUnavailable, DecodeError) as error:
        problem = str(error)
    facts = {} if problem else _facts(budget.monthly_usd, account)
    return {"tenant": tenant.id, "name": tenant.name, "home": str(home), "problem": problem, **facts}


def _facts(budget_usd: float, found: "Account | None") -> Mapping[str, Any]:
    """The month in USD: `spent`, `leased` by region (granted and not told to be spent), `left`."""
    from gateway.policies.budget import month_of, opened
    from regions.runtime import lifecycle

    now_s = lifecycle.wall_clock()
    account = opened(found, month_of(now_s), now_s)
    spent_usd, leased = account.spent_usd(now_s), dict[str, float]()
    for lease in account.leases.values():
        if lease.is_held(now_s):
            leased[lease.region] = leased.get(lease.region, 0.0) + lease.outstanding_usd
    return {
        "month": account.month,
        "budget_usd": budget_usd,
        "spent_usd": round(spent_usd, 8),
        "leased_usd": {region: round(usd, 8) for region, usd in sorted(leased.items())},
        "left_usd": round(max(0.0, budget_usd - account.counted_usd), 8),
        "spent_ratio": round(spent_usd / budget_usd, 4),
        "leases": [
            {
                "holder": holder,
                "region": lease.region,
                "granted_usd": round(lease.granted_usd, 8),
                "spent_usd": round(lease.spent_usd, 8),
                "expires_in_s": round(lease.expires_s - now_s, 1),
            }
            for holder, lease in sorted(account.leases.items())
        ],
    }


def _show_list(found: Sequence[Mapping[str, Any]]) -> None:
    from rich.table import Table

    if not found:
        stdout().print("no tenant has a budget")
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("tenant", no_wrap=True)
    for name in ("home", "month", "budget", "spent", "leased", "left"):
        table.add_column(name)
    for each in found:
        row = [each["tenant"], each["home"]]
        if each["problem"]:
            stdout().print(f"{each['tenant']}: {each['problem']}", style="red", markup=False)
            continue
        spent = f"{_usd(each['spent_usd'])} ({each['spent_ratio']:.0%})"
        leased = ", ".join(f"{region} {_usd(usd)}" for region, usd in each["leased_usd"].items()) or "-"
        table.add_row(*row, each["month"], _usd(each["budget_usd"]), spent, leased, _usd(each["left_usd"]))
    if table.rows:
        stdout().print(table)


def _show_one(found: Mapping[str, Any]) -> None:
    from rich.table import Table

    _show_list([found])
    if not found.get("leases"):
        return
    table = Table("holder", "region", "granted", "spent", "heard of until")
    table.box, table.pad_edge = None, False
    for lease in found["leases"]:
        left_s = lease["expires_in_s"]
        until = f"in {left_s:.0f} s" if left_s > 0 else f"{-left_s:.0f} s ago: counts as spent"
        usd = _usd(lease["granted_usd"]), _usd(lease["spent_usd"])
        table.add_row(lease["holder"], lease["region"], *usd, until)
    stdout().print(table)


def _usd(amount: float) -> str:
    """Four digits of what is small, cents of what is not."""
    return f"${amount:,.2f}" if amount >= 1 or not amount else f"${amount:.4f}"
