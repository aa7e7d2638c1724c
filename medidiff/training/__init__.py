"""Training: a loop that reads like its description, and the state that makes it resumable."""
