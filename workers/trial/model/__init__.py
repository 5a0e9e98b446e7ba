"""The base model: loaded once, lent to one trial after another."""
