"""Recursive architectures other than the Tiny Recursive Model: small, with random weights, one file each."""
