"""HTTP in: the gateway's only importer of `aiohttp.web`."""
