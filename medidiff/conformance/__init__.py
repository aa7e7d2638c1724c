"""Whether the installed package is right: exactly solvable models and recordings of the authors.

`oracles` are data distributions whose denoiser is known in closed form; `replay` walks recordings
of the original implementations (one file a family in `families`) and says which ours follows.
"""
