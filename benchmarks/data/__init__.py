"""Preparing a large data set: ours and the plain way, side by side."""
