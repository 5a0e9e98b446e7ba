"""What is wrong with an example, what it repeats, what it is worth."""
