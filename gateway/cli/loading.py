"""A gateway's configuration from its file: what `check-config` checks is what `serve` starts with."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.config import GatewayConfig


def load_gateway(path: Path) -> "GatewayConfig":
    """The validated configuration. Raises: ConfigError: with every problem found."""
    from gateway.config import GatewayConfig
    from gateway.config_checks import cross_check
    from regions.runtime.config_file import load

    return load(path, GatewayConfig, os.environ, cross_check)
