"""Ours against the plain way, measured side by side: `python -m benchmarks`."""
