"""Measurements against the peers: python -m benchmarks."""
