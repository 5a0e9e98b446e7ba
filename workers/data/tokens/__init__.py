"""From an example to token ids and what of them is learned."""
