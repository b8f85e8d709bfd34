"""What the status tells of namespaces that stand still."""

from regions.names import IndexName, NamespaceRef, RegionId
from regions.replicator.watermarks import Mark, Progress, key_of
from regions.status import parked, parking
from regions.topology import Home, Term, Topology, shard_of

US, EU, AP = RegionId("us"), RegionId("eu"), RegionId("ap")
DOCS = IndexName("docs")
NAMESPACE = NamespaceRef(DOCS, "t.a")


def told(*, is_parked: bool) -> Progress:
    behind = {key_of(NAMESPACE): Mark(3, 3, parked="no")} if is_parked else {}
    return Progress("one", "stream", 9, behind=behind)


def test_what_an_earlier_homes_follower_has_parked_is_told_and_can_be_unparked() -> None:
    """It holds up the new epoch in that region, so nothing would go on without."""
    shard = shard_of(NAMESPACE, 2)
    topology = Topology(
        here=AP,
        regions=[US, EU, AP],
        shards=2,
        replicas={DOCS: [US, EU, AP]},
        homes={DOCS: Home(DOCS, [Term(1, US, ends=[9, 9]), Term(2, EU)])},
        progress={(AP, US, shard): told(is_parked=True), (AP, EU, shard): told(is_parked=False)},
    )
    assert parked(topology, DOCS, AP) == {NAMESPACE.stored: "no"}
    assert parked(topology, DOCS, EU) == {}
    assert parking(topology, NAMESPACE, AP) == [US]
    assert parking(topology, NAMESPACE, EU) == []
