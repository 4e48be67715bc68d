"""One file per comparator, readable beside its paper."""
