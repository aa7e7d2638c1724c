"""Scans in, cases out.

`manifest` says which files belong to whom, `images` reads and writes them, `options` holds the
choices that a configuration may make (and costs no torch import), `transforms` brings an image into
a model's space and intensities and back, `datasets` makes cases and batches, `privacy` keeps names
apart, `phantoms` draws heads. Import from the modules: this package imports nothing by itself.
"""
