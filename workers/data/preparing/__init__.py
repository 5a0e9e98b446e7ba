"""A study's data, made once and kept: from its sources to its sets of tokens."""
