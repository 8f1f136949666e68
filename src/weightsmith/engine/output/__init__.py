"""The folder that a merge writes: resumed after a kill, journaled, named by its inputs, with checksums."""
