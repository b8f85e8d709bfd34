"""Files -> records: reading, chunking, and sending text to a gateway as one of its tenants."""
