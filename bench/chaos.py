"""Kills, cuts and damages three regions under writes; compares what is left with what was acknowledged.

    python -m bench.chaos                     kills under 60 s of writes, cuts of 20 and 100 s, all damage
    python -m bench.chaos --quick             half the kills and one short cut
    python -m bench.chaos --only wiped,trim   the cases whose names begin so

Exit code 1 when anything was lost or resurrected, a backlog was not cleared in time after a cut, or a case of
damage did not end converged or refused, as DESIGN says.
"""

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from random import Random
from typing import Final

import aiohttp

from bench import chaos_damage
from bench.campaign import FAR, HOME, NEAR, WRITES_PER_S, Account, Campaign, say
from bench.chaos_promotion import forced_promotion
from bench.three_regions import running

KILLS: Final = (
    f"{HOME} replicator",
    f"{FAR} node",
    f"{HOME} log",
    f"{HOME} gateway",
    f"{NEAR} replicator",
    f"{HOME} node",
    f"{FAR} gateway",
    f"{FAR} log",
)


async def _kills(campaign: Campaign) -> None:
    await campaign.kills(KILLS, 60)
    await campaign.compare()


async def _quick_kills(campaign: Campaign) -> None:
    await campaign.kills(KILLS[:4], 20)
    await campaign.compare()


async def _cuts(campaign: Campaign) -> None:
    await campaign.cut(NEAR, 20)
    await campaign.cut(FAR, 100)
    await campaign.compare()


async def _quick_cuts(campaign: Campaign) -> None:
    await campaign.cut(NEAR, 5)
    await campaign.compare()


Case = Callable[[Campaign], Awaitable[None]]
CASES: Final[dict[str, tuple[Case, Case]]] = {
    "kills": (_kills, _quick_kills),
    "cuts": (_cuts, _quick_cuts),
    "wiped-node": (chaos_damage.wiped_node, chaos_damage.wiped_node),
    "wiped-index": (chaos_damage.wiped_index, chaos_damage.wiped_index),
    "trimmed": (chaos_damage.trimmed, chaos_damage.trimmed),
    "recreated-streams": (chaos_damage.recreated_streams, chaos_damage.recreated_streams),
    "recreated-home": (chaos_damage.lost_home, chaos_damage.lost_home),
    "promotion": (forced_promotion, forced_promotion),
}
"""In this order, whole and quick; the last one moves the home."""


def report(account: Account) -> str:
    """The account as Markdown."""
    told, wrong = account.told, account.wrong
    lines = [
        "# Three regions, killed, cut and damaged under writes",
        "",
        f"Writers at each gateway, {WRITES_PER_S} writes a second each, of one to five ids. "
        f"{told['acked']} writes acknowledged, {told['refused']} refused, {told['unknown']} unanswered.",
        f"Killed with SIGKILL: {', '.join(account.killed) or 'nothing'}.",
        "",
        f"{account.checked} ids compared over three replicas: "
        f"**{wrong['lost']} acknowledged writes lost, {wrong['resurrected']} resurrected**.",
        "",
        "| after | everything in every region after |",
        "|---|---|",
        *(f"| {name} | {seconds:.1f} s |" for name, seconds in account.cleared_s),
        "",
        *(f"- {counted}" for _, _, counted in account.cases),
        *(f"\n    {example}" for example in account.examples[:20]),
        "",
        f"Not as designed: {'; '.join(account.failures)}." if account.failures else "All as designed.",
    ]
    return "\n".join(lines) + "\n"


def _chosen(only: str) -> list[str]:
    """The cases to run. Raises: SystemExit: there is none of that name."""
    wanted = [name.strip() for name in only.split(",") if name.strip()]
    for prefix in wanted:
        if not any(name.startswith(prefix) for name in CASES):
            raise SystemExit(f"no case begins with {prefix!r}: there are {', '.join(CASES)}")
    return [name for name in CASES if not wanted or name.startswith(tuple(wanted))]


async def run(args: argparse.Namespace) -> Account:
    with tempfile.TemporaryDirectory(prefix="meridian-chaos-") as folder:
        home = args.keep or Path(folder) / "regions"
        say("starting three regions")
        async with running(home, say=say) as rig:
            campaign = Campaign(rig, Path(folder), Random(args.seed))
            for name in _chosen(args.only):
                begun_s = asyncio.get_running_loop().time()
                is_broken_off = False
                try:
                    await CASES[name][args.quick](campaign)
                except* (TimeoutError, RuntimeError, aiohttp.ClientError) as group:
                    is_broken_off = True
                    campaign.account.judge(name, f"{name}: broken off", map(repr, _leaves(group)))
                say(f"  {name}: {asyncio.get_running_loop().time() - begun_s:.0f} s")
                if is_broken_off or campaign.account.wrong:
                    break  # what comes after it would say more of this than of itself
            return campaign.account


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="half the kills and one short cut")
    parser.add_argument(
        "--only", default="", metavar="NAMES", help=f"of {', '.join(CASES)}, by how they begin"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--report", type=Path, help="write it there too, as Markdown")
    parser.add_argument("--keep", type=Path, help="have the regions' files and logs there, and leave them")
    args = parser.parse_args()
    _chosen(args.only)
    account = asyncio.run(run(args))
    text = report(account)
    say(text)
    if args.report:
        args.report.write_text(text)
    return 0 if account.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
