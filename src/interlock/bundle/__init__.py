"""A model directory with a contract: digests of every file, signatures, thresholds, vectors."""
