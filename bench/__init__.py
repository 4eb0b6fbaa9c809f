"""What the pack costs: the virtual card (the tests use it too), timings, and the report."""
