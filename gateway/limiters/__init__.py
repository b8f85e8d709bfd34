"""Who counts what tenants use: in this process alone, or together with the region's other gateways."""
