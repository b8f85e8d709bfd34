"""A gateway's configuration from its file: what `check-config` checks is what `serve` starts with."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.config import GatewayConfig
    from gateway.tenants_file import TenantsFile


def load_gateway(path: Path) -> "GatewayConfig":
    """The validated configuration. Raises: ConfigError: with every problem found."""
    from gateway.config import GatewayConfig
    from gateway.config_checks import cross_check
    from regions.runtime.config_file import load

    return load(path, GatewayConfig, os.environ, cross_check)


def load_tenants(config: "GatewayConfig", path: Path) -> "TenantsFile":
    """The tenants of the configuration that stands in `path`. Raises: ConfigError."""
    from gateway.tenants_file import TenantsFile, check_tenants
    from regions.runtime.config_file import load

    places = config.regions.places if config.regions is not None else ()
    return load(
        path.parent / config.tenants.file,
        TenantsFile,
        {},
        lambda file: check_tenants(file, config.indexes, places),
    )
