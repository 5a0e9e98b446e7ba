"""What goes wrong around grading."""

from __future__ import annotations


class GradersUnavailable(RuntimeError):
    """There is nobody to judge: a process or the sandbox is gone. No answer is to blame."""
