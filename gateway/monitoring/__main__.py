"""`python -m gateway.monitoring [directory]`: write the rules and dashboards, helm/monitoring unless told."""

import json
import sys
from pathlib import Path
from typing import Final

import yaml

from gateway.monitoring import dashboards, rules

DIRECTORY: Final = Path("helm/monitoring")
HEADER: Final = "# Made by `make monitoring` from gateway/monitoring/rules.py: change it there.\n"


def files() -> dict[str, str]:
    """What each file holds, by its name."""
    shown = {
        f"dashboards/{name}.json": json.dumps(dashboards.document(name), indent=1) + "\n"
        for name in dashboards.DASHBOARDS
    }
    return {"rules.yaml": HEADER + yaml.safe_dump(rules.document(), sort_keys=False, width=1_000), **shown}


def main(directory: Path) -> None:
    for name, text in files().items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else DIRECTORY)
