"""Starts the processes of a study on this machine."""
