"""The commands: parsing, calling, printing."""
