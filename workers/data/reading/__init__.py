"""From files and data sets to rows, and from rows to examples."""
