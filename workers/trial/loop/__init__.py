"""Training one trial, one optimizer step at a time."""
