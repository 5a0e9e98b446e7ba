"""The measurements of both ways as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from benchmarks.measured import Evaluation, Measured, Switch, largest_difference

SWITCH: Mapping[str, Callable[[Switch], float]] = {
    "trial switch, first step included": lambda switch: switch.seconds,
    "trial switch, up to that step": lambda switch: switch.seconds - switch.first_step,
}
EVALUATION: Mapping[str, Callable[[Evaluation], float]] = {
    "evaluation": lambda one: one.seconds,
    "of it generation": lambda one: one.generate,
    "of it grading": lambda one: one.grade,
    "of it forward passes": lambda one: one.forward,
    "of it overhead": lambda one: one.overhead,
    "of that loading": lambda one: one.load,
    "of that switching": lambda one: one.switch,
    "of that queue and database": lambda one: one.other,
}


def report(title: str, ours: Measured, plain: Measured) -> str:
    """Tables of both ways side by side, and what was the same in both."""
    rows = [
        ("whole study", ours.wall, plain.wall),
        ("whole study, first loading left out", ours.working, plain.working),
        *((name, ours.switch(of), plain.switch(of)) for name, of in SWITCH.items()),
        *((name, ours.evaluation(of), plain.evaluation(of)) for name, of in EVALUATION.items()),
    ]
    shares = [f"{way.evaluation(lambda one: one.share):.1%}" for way in (ours, plain)]
    return "\n".join(
        [
            f"### {title}",
            "",
            "| seconds | ours | plain | plain / ours |",
            "|---|---:|---:|---:|",
            *(f"| {name} | {a:.3f} | {b:.3f} | {ratio(a, b)} |" for name, a, b in rows),
            f"| overhead, share of an evaluation | {shares[0]} | {shares[1]} | |",
            "",
            *_notes(ours, plain),
            "",
        ]
    )


def ratio(ours: float, plain: float) -> str:
    """How many times longer the plain way took; nothing where ours is below a millisecond."""
    return f"{plain / ours:.1f}" if ours >= 0.001 else ""


def _notes(ours: Measured, plain: Measured) -> list[str]:
    loss = largest_difference(ours, plain, lambda one: one.loss)
    accuracy = largest_difference(ours, plain, lambda one: one.accuracy)
    longest = max(switch.seconds for switch in ours.switches)
    return [
        f"- In both: {len(plain.switches) + 1} trials, {plain.steps} optimizer steps, "
        f"{len(plain.evaluations)} evaluations; their losses differ by {loss:.1e} at most, their "
        f"accuracies by {accuracy:.1e}.",
        f"- In ours besides: {ours.steps - plain.steps} optimizer steps taken while a verdict was "
        f"awaited, {ours.unused_evaluations} evaluations that decided nothing (the base model's "
        "is one).",
        f"- Medians over {len(plain.switches)} switches (our longest {longest:.3f} s) and "
        f"{len(plain.evaluations)} evaluations. Load average at the end {ours.load_average:.1f} "
        f"(ours) and {plain.load_average:.1f} (plain).",
    ]
