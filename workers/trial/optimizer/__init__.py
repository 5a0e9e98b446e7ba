"""What changes the weights, and at which rate."""
