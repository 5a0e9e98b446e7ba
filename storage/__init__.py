"""Where a study lives: database, leases, evaluation queue, checkpoints. No torch."""
