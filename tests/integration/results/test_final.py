"""The test set: scored once for the base model and for the winner, seen by nobody else."""

from __future__ import annotations

from pathlib import Path

import pytest
from played import STUDY, PlayedStudy, scores

from hpo.results.export import results
from hpo.search.final import FinalTest
from storage.database import Database

pytestmark = pytest.mark.postgres

WITH_TEST = STUDY.replace(
    "  generation: {path: user/valid}\n",
    "  generation: {path: user/valid}\n  test: {path: user/test}\n",
).replace("trials: 6", "trials: 2")


@pytest.fixture
def ended(database: Database, tmp_path: Path) -> PlayedStudy:
    """Both trials are over; the second one won."""
    study = PlayedStudy(database, tmp_path, WITH_TEST)
    study.score_base(loss=2.0, correct=1)
    study.play(0, [(1, 100, 1.0, 2)], "complete")
    study.play(1, [(1, 100, 0.9, 2), (5, None, 0.25, 6), (9, 900, 0.5, 5)], "complete")
    return study


def final(study: PlayedStudy) -> FinalTest:
    return FinalTest(study.queue, study.search)


def answer(study: PlayedStudy, loss: float) -> tuple[int | None, int]:
    request = study.queue.claim("scorer")
    assert request is not None
    assert request.test
    study.queue.complete(request, scores(loss, 4), lambda: False)
    return request.number, request.step


def test_a_study_with_a_test_set_is_over_when_that_is_scored(ended: PlayedStudy) -> None:
    assert final(ended).pending()
    assert not ended.view.over()
    assert ended.view.read().state == "idle"
    final(ended).ask()
    final(ended).ask()
    # The winner's best checkpoint, not its last one.
    assert [answer(ended, 3.0), answer(ended, 1.5)] == [(None, 0), (1, 5)]
    assert ended.queue.claim("scorer") is None
    assert not final(ended).pending()
    assert ended.view.over()
    assert ended.view.read().state == "finished"
    content = results(ended.view)
    assert content["base_model"]["test"]["loss"]["value"] == 3.0
    assert content["best_trial"]["test"]["loss"]["value"] == 1.5
    assert content["best_trial"]["loss"]["value"] == 0.25
    snapshot = ended.view.read()
    assert snapshot.base_test is not None
    assert snapshot.best_test is not None
    assert (snapshot.base_test["loss"], snapshot.best_test["loss"]) == (3.0, 1.5)


def test_no_other_question_finds_scores_on_the_test_set(ended: PlayedStudy) -> None:
    before = (ended.queue.for_trial(1), ended.queue.base(), ended.queue.recent(99))
    final(ended).ask()
    assert ended.queue.pending(1) == 0
    assert ended.queue.cancel(1, after_step=0) == 0
    answer(ended, 3.0)
    answer(ended, 1.5)
    assert (ended.queue.for_trial(1), ended.queue.base(), ended.queue.recent(99)) == before
    assert ended.view.read().trials[1].loss == 0.25


def test_the_checkpoint_to_be_tested_is_pinned(ended: PlayedStudy) -> None:
    final(ended).ask()
    assert ended.queue.pinned() == {"trial-00001/step-5"}


def test_a_score_that_failed_keeps_nobody_waiting(ended: PlayedStudy) -> None:
    final(ended).ask()
    answer(ended, 3.0)
    request = ended.queue.claim("scorer")
    assert request is not None
    ended.queue.fail(request, "the checkpoint is gone", retry=False)
    assert ended.view.over()
    assert "test" not in results(ended.view)["best_trial"]


def test_a_new_winner_is_tested_too(ended: PlayedStudy) -> None:
    final(ended).ask()
    answer(ended, 3.0)
    answer(ended, 1.5)
    ended.play(2, [(1, 100, 0.1, 7)], "complete")
    assert final(ended).pending()
    final(ended).ask()
    assert answer(ended, 1.2) == (2, 1)
    assert not final(ended).pending()


def test_a_study_without_a_test_set_asks_for_nothing(played: PlayedStudy) -> None:
    final(played).ask()
    assert not final(played).pending()
    assert played.queue.claim("scorer") is None
