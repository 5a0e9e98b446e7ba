"""Watching a trial's health, and warning of what goes wrong."""
