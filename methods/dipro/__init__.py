"""DiPro (arXiv 2510.11112)."""
