"""A training proposed from what a manifest's scans are like, each choice with its reason."""
