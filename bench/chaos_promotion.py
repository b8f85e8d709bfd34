"""A home that is cut off with writes that nobody else gets, and is replaced by force."""

import asyncio

from bench.campaign import HOME, NEAR, PATIENCE_S, Campaign, say
from regions.positions import epoch_of

NAMESPACE = "promotion"


async def forced_promotion(campaign: Campaign, tail: int = 20) -> None:
    """Cut the home off with writes it never ships, promote by force, and see what comes of them."""
    say(f"{HOME} cut off; {tail} writes there that nobody else gets; {NEAR} promoted by force")
    us, eu, _ = campaign.rig.places
    await campaign.rig.cut(HOME)
    lost = [f"tail-{number}" for number in range(tail)]
    for id_ in lost:
        await campaign.written(us, NAMESPACE, id_)
    await campaign.command("promote", eu, "--to", NEAR, "--forced", "--drain-s", "2")
    kept = [f"new-{number}" for number in range(tail)]
    for id_ in kept:
        await campaign.written(eu, NAMESPACE, id_)
    await campaign.rig.heal(HOME)
    seconds = await campaign.rig.until_everywhere(eu, PATIENCE_S)
    late = await campaign.written(us, NAMESPACE, "late")
    saved = campaign.folder / "tail.jsonl"
    await campaign.command("replica", eu, "tail", "--out", str(saved))
    lines = len(saved.read_text().splitlines())
    problems = [] if lines == tail else [f"{lines} of {tail} unshipped writes saved"]
    problems += await _until_converged(campaign, [*kept, "late"], lost)
    campaign.account.judge(
        "forced promotion",
        f"forced promotion: epoch {epoch_of(late)} at {NEAR}; {lines} of {tail} unshipped writes saved to a "
        f"file; everything else in every region {seconds:.1f} s after the old home was back",
        problems,
    )


async def _until_converged(campaign: Campaign, kept: list[str], lost: list[str]) -> list[str]:
    """Wait until every node holds exactly the records to keep; else what they hold, in words."""
    for _ in range(80):
        held = [await campaign.held(place, NAMESPACE, [*kept, *lost]) for place in campaign.rig.places]
        if all(set(each) == set(kept) for each in held):
            return []
        await asyncio.sleep(0.5)
    counts = [f"{len(set(each) & set(kept))} and {len(set(each) & set(lost))}" for each in held]
    return [f"of {len(kept)} records to keep and {len(lost)} of the tail there are {', '.join(counts)}"]
