"""Scoring a checkpoint: generation, grading, loss."""
