"""Smaller models out of finished runs: fewer blocks, sparse weights, students; see `mmpt/compress/methods`."""
