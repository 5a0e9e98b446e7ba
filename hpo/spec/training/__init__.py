"""The training section of a study: what one trial trains with."""
