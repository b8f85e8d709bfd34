"""What stands around the metrics: their catalogue, against which rules and dashboards are checked."""
