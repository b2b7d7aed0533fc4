"""k-means units: fit a codebook, label a data set with it, and say what its units are worth."""
