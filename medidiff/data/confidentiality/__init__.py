"""The attribute part of DICOM's basic application confidentiality profile, a scanner for what
identifies, and defacing.

`table` holds the standard's table of attributes, `profile` applies it to a data set, `folders` to
a tree of files, `findings` and `finding_phi` look for identifiers, `faces` takes a face off a head.
"""
