"""Whole jobs, one file a verb: each puts the packages together and knows nothing of the command
line."""
