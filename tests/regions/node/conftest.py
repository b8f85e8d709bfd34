"""A node that several tests ask, none of them changing anything."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.regions.node.running import NodeClient, make_index, running_node


@pytest.fixture
async def refusing(tmp_path: Path) -> AsyncIterator[NodeClient]:
    """A node with the index `a`, for calls that it refuses."""
    async with running_node(tmp_path) as node:
        await make_index(node)
        yield node
