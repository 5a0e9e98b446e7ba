"""Errors between the parts of the program; those for a person are in `hpo.spec.errors`."""

from __future__ import annotations


class LeaseLost(Exception):
    """The fencing number is old: somebody else took over, or the work was cancelled.

    Whoever gets it stops at once and writes nothing more about that work.
    """
