"""A study's trials in the test's own process, their checkpoints scored by a thread."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import torch
from worker_lab import Lab, ScriptedEvaluator

from workers.session import open_session
from workers.stop import StopSignal
from workers.trial.worker import TrialWorker


def run_here(lab: Lab) -> None:
    """Run a study to its end; what the trial worker raises is raised."""
    over = threading.Event()
    with (
        lab.evaluator() as evaluator,
        ThreadPoolExecutor(1) as pool,
        open_session("trial", lab.options(), StopSignal()) as session,
    ):
        answering = pool.submit(_answer, evaluator, over)
        try:
            TrialWorker.load(session, torch.device("cpu")).run()
        finally:
            over.set()
        answering.result()


def _answer(evaluator: ScriptedEvaluator, over: threading.Event) -> None:
    while not over.is_set():
        request = evaluator.claim()
        if request is None:
            evaluator.session.listener.wait(0.05)
        else:
            evaluator.answer(request)
