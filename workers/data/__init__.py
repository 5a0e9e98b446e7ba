"""Examples: sources, templates, tokens, order, batches and the loss over them."""
