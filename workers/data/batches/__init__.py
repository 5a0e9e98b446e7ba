"""Which examples come when, as tensors, and the loss over them."""
