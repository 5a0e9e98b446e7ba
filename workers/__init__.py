"""The processes that do the work: training trials, scoring checkpoints."""
