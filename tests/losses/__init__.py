"""One proof per loss, in a file of the same name as its declaration: see tests/proofs.py, and copy a neighbour."""
