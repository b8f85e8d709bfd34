"""What any process of a region stands on; it knows no domain word."""
