"""Final answers in texts, and the numbers and formulas that they are.

What data are cleaned by and what answers are graded by is the same reading.
"""
