"""Training one trial on a reused model."""
