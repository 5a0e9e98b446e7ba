"""Error bars and comparisons; needs nothing but Python."""
