"""What an evaluation worker needs, made once; then it serves until the study is over."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import ExitStack, suppress

import torch

from hpo.search.graded import StoredItem, pack_set
from storage.answers import AnswerStore
from workers.evaluation.engines.engines import EvaluationEngines
from workers.evaluation.grading.pool import GradingPool
from workers.evaluation.score import Evaluator
from workers.evaluation.sets import (
    TEST,
    EvaluationSets,
    GenerationSet,
    answered,
    load_sets,
    require_gradable,
    require_same_graders,
)
from workers.evaluation.worker import EvaluationWorker
from workers.session import StudySession, WorkerOptions, open_session
from workers.stop import StopRequested, StopSignal
from workers.turns import open_turns

logger = logging.getLogger(__name__)


def serve_evaluations(options: WorkerOptions, stop: StopSignal) -> None:
    """Answer a study's requests until it is over or a stop is asked for."""
    with open_session("evaluation", options, stop) as session, ExitStack() as stack:
        if session.trials_over() and not session.scores_pending():
            return
        session.phase("preparing the evaluation sets")
        sets = load_sets(session)
        evaluation = session.spec.evaluation
        pool = stack.enter_context(
            GradingPool(evaluation.grading_processes, item_seconds=evaluation.grading_seconds)
        )
        require_same_graders(session)
        for name, items in answered(sets):
            require_gradable(pool, items, f"data.{name}")
            store_items(session, items, test=name == TEST)
        kind = torch.device(options.device.partition(":")[0])
        turns = stack.enter_context(open_turns(session, kind, options.device))
        stack.enter_context(suppress(StopRequested))
        stop.check()
        with turns.mine("building the engines", stop.check):
            session.phase("building the engines")
            engines = load_engines(session, sets, options.device)
            stack.callback(engines.close)
            turns.before_rest(engines.lay_down)
        scorers = {name: Evaluator(engines, pool, part, evaluation) for name, part in sets.items()}
        EvaluationWorker(session, scorers, turns).run()


def store_items(session: StudySession, items: GenerationSet, *, test: bool) -> None:
    """Keep the items of a set, once per study, so that people see what was asked.

    Raises StudyError when the study has been asked other items.
    """
    stored = [StoredItem(item.prompt, item.reference, dict(item.labels)) for item in items.items]
    AnswerStore(session.database, session.record.id).put_set(test, pack_set(stored), items.hash)


def load_engines(
    session: StudySession, sets: Mapping[str, EvaluationSets], device: str
) -> EvaluationEngines:
    """Build the engines on the base model, once, long enough for every set."""
    every = [items for _, items in answered(sets)]
    engines = EvaluationEngines.load(
        session.spec.model,
        session.spec.evaluation,
        device=device,
        max_model_len=max((items.longest for items in every), default=0),
        lora_rank=session.search.largest_rank(),
        generation=bool(every),
    )
    for name, items in answered(sets):
        _warn_of_long_prompts(name, items, engines.window)
    arrangement = engines.arrangement
    logger.info("memory of the evaluation device: %s (%s)", arrangement.name, arrangement.reason)
    return engines


def _warn_of_long_prompts(name: str, items: GenerationSet, window: int) -> None:
    beyond = sum(len(prompt) >= window for prompt in items.prompts)
    if beyond:
        logger.warning(
            "data.%s: %d of %d prompts fill the model's window of %d tokens: they are not asked "
            "for and count as wrong",
            name,
            beyond,
            len(items.prompts),
            window,
        )
