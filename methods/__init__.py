"""DiPro, its ablations and the baselines."""
