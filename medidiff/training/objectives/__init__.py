"""Objectives beyond the denoising loss, one a file: its options and what the loop calls."""
