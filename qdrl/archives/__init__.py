"""Archives of elites: in memory, where batches compete for cells, and as HDF5 files.

- `archive.py`: the archive of cells (torch, any device); `grid.py` and `cvt.py` map descriptors to cells.
- `novelty_archive.py`: the archive without cells; `admission.py` holds its rules of admission, `novelty.py` computes
  the novelty of a descriptor.
- `base.py`: the interface of all archives. `settings.py` and `registry.py`: their settings, kinds and construction.
- `hdf5.py`: reads and writes the file format, without torch. `stored.py`: an archive that was read from a file.

Stored archives are data; reference files are in the repository's top-level folder `archives/`.
"""
