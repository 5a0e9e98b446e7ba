"""What is sampled and how it is decided: ask, report, judge, tell."""
