"""`python -m regions.node CONFIG.json`: a node from a file with `NodeConfig`'s fields, for `up` and tests."""

import sys
from pathlib import Path

from regions.node.config import NodeConfig
from regions.node.main import main

if __name__ == "__main__":
    sys.exit(main(NodeConfig.model_validate_json(Path(sys.argv[1]).read_bytes())))
