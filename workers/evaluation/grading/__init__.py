"""Grading beside generation, in processes that can be killed."""
