"""Training measured: our loop against others, the switch between trials, what is lost."""
