"""Scripts that measure; RESULTS.md holds what they printed."""
