"""How good a result is: distortion, fidelity, noise levels, and the classical methods to beat."""
