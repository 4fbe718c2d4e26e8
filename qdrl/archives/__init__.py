"""Archives: where elites live, how a batch competes for cells, and the file that keeps them.

`archive.py` is the evolving archive (torch, any device); `grid.py` and `cvt.py` say which descriptor belongs to
which cell. `novelty_archive.py` has no cells: `admission.py` says who is let in, `novelty.py` how new a behaviour is.
`base.py` is what all archives have in common; `hdf5.py` alone knows the file format and needs no torch. Stored archives
themselves are data and lie in the repository's top-level `archives/`.
"""
