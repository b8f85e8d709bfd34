"""The regional part of `meridian status` for people: regions, replicas with their lag, namespaces."""

from collections.abc import Mapping
from typing import Any, Final

from gateway.cli.terminal import stdout

NAMESPACES_SHOWN: Final = 50


def show(facts: Mapping[str, Any]) -> None:
    """Print what `regions.status` tells, the lags under their names; nothing when there is none of it."""
    from rich.table import Table

    if "replicas" not in facts:
        return
    regions = Table("region", "log", "round trip", box=None, pad_edge=False)
    for region, place in facts["regions"].items():
        regions.add_row(region, place["log"], _unit(place["log_rtt_ms"], "ms"))
    stdout().print(regions)
    lags = ("received", "applied", "queryable", "canary")
    replicas = Table("index", "replica", "home", "state", "answers", *lags)
    replicas.box, replicas.pad_edge = None, False
    for index, found in facts["replicas"].items():
        home = facts["homes"].get(index, {})
        for region, replica in found.items():
            term = f"epoch {home['epoch']}" if home.get("region") == region else ""
            lines = [_unit(replica[f"{lag}_lag_s"], "s") for lag in lags]
            replicas.add_row(index, region, term, replica["state"], _unit(replica["answer_ms"], "ms"), *lines)
    stdout().print(replicas)
    for index, found in facts["replicas"].items():
        for region, replica in found.items():
            for stored, why in replica["parked"].items():
                stdout().print(f"parked: {index} {stored} in {region}: {why}", style="red", markup=False)
    for tail in facts.get("tails", ()):
        stdout().print(_tail_line(tail), style="yellow", markup=False)
    _show_namespaces(facts.get("namespaces", {}))


def _tail_line(tail: Mapping[str, Any]) -> str:
    line = f"unshipped: {tail['index']}, epoch {tail['epoch']} of {tail['region']}: "
    if tail["error"]:
        return line + f"not saved: {tail['error']}"
    line += f"{tail['changes']} change(s)" + (f" in {tail['path']}, there" if tail["path"] else "")
    return line + (f"; up to {tail['trimmed']} entries were trimmed before" if tail["trimmed"] else "")


def _show_namespaces(namespaces: Mapping[str, Any]) -> None:
    from rich.table import Table

    rows = [
        (index, stored, region, standing)
        for index, found in namespaces.items()
        for stored, standings in found.items()
        for region, standing in standings.items()
    ]
    if not rows:
        return
    table = Table("index", "namespace", "replica", "position", "queryable lag", "state", box=None)
    table.pad_edge = False
    for index, stored, region, standing in rows[:NAMESPACES_SHOWN]:
        lag = _unit(standing["queryable_lag_s"], "s")
        table.add_row(index, stored, region, str(standing["lsn"]), lag, standing["state"])
    stdout().print(table)
    if len(rows) > NAMESPACES_SHOWN:
        stdout().print(f"… and {len(rows) - NAMESPACES_SHOWN} more lines: --json has them", markup=False)


def _unit(value: float | None, unit: str) -> str:
    return "-" if value is None else f"{value:.3g} {unit}"
