"""The judges that there are: who is asked, started, replaced."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from selectors import EVENT_READ, EVENT_WRITE, BaseSelector
from time import monotonic

from workers.evaluation.grading.judge_process import (
    START_SECONDS,
    Asked,
    AssignedSet,
    JudgeEnded,
    JudgeProcess,
)
from workers.evaluation.grading.messages import Reply

MOST_FAILURES = 2
"""An answer may meet a judge that has used up its memory on others, or one that
the system picks to end. It is blamed when it meets another."""


class Staff:
    """Gives questions to judges, starts and replaces them; waits for nothing.

    A judge works on one set. Nothing that a grader keeps in its process may
    reach from one set to another, so it is replaced when another set needs it.
    """

    def __init__(
        self, processes: int, selector: BaseSelector, answer: Callable[[Reply], None]
    ) -> None:
        """`answer` is given the replies; judges are registered with the selector."""
        self._processes = processes
        self._selector = selector
        self._answer = answer
        self._waiting: dict[AssignedSet, deque[Asked]] = {}
        self._judges: list[JudgeProcess] = []

    def ask(self, asked: Asked) -> None:
        """Note a question for the next `serve`."""
        self._waiting.setdefault(asked.assigned, deque()).append(asked)

    def forget(self, inquiry: int) -> None:
        """Drop what waits of an inquiry; what is with a judge is finished there."""
        for assigned, waiting in self._waiting.items():
            kept = deque(asked for asked in waiting if asked.inquiry != inquiry)
            self._waiting[assigned] = kept

    def serve(self) -> None:
        """Hand out what can be handed out."""
        for assigned, waiting in list(self._waiting.items()):
            for judge in self._holding(assigned):
                if judge.idle and waiting:
                    self._hand(judge, waiting.popleft())
            self._recruit(assigned, waiting)
            if not waiting:
                del self._waiting[assigned]

    def patience(self) -> float | None:
        """Seconds to the next time limit; None when nobody has one."""
        deadlines = [judge.deadline for judge in self._judges if not judge.idle]
        return max(0.0, min(deadlines) - monotonic()) if deadlines else None

    def attend(self, judge: JudgeProcess, events: int) -> None:
        """Write to a judge or read from it, as the selector says."""
        if judge not in self._judges:
            # Dismissed a moment ago, over its other pipe.
            return
        if events & EVENT_READ:
            self._receive(judge)
        else:
            judge.send()
            if not judge.unsent:
                self._selector.unregister(judge.questions)

    def end_overdue(self) -> None:
        """End judges whose time is up."""
        now = monotonic()
        for judge in [j for j in self._judges if not j.idle and j.deadline <= now]:
            self._dismiss(judge)
            if judge.asked is not None:
                why = f"the grader took more than {judge.asked.seconds:g} s"
                self._answer(Reply(judge.asked.ticket, lost=why))
            else:
                self._note_unable(judge, f"it was not ready after {START_SECONDS:g} s")

    def close(self) -> None:
        """End all judges."""
        for judge in list(self._judges):
            self._dismiss(judge)

    def _recruit(self, assigned: AssignedSet, waiting: deque[Asked]) -> None:
        """Start judges for what is left, or give up when none can begin."""
        starting = sum(not judge.ready for judge in self._holding(assigned))
        for _ in range(len(waiting) - starting):
            if assigned.unable is not None or not self._make_room(assigned):
                break
            self._start(assigned)
        if assigned.unable is not None and not self._holding(assigned):
            while waiting:
                self._answer(_unable(assigned.unable, waiting.popleft().ticket))
            assigned.unable = None

    def _holding(self, assigned: AssignedSet) -> list[JudgeProcess]:
        return [judge for judge in self._judges if judge.assigned is assigned]

    def _make_room(self, assigned: AssignedSet) -> bool:
        """Whether one more judge may start; ends an idle one of another set for it."""
        if len(self._holding(assigned)) >= assigned.most:
            return False
        if len(self._judges) < self._processes:
            return True
        others = [j for j in self._judges if j.idle and j.assigned is not assigned]
        if others:
            self._dismiss(others[0])
        return bool(others)

    def _start(self, assigned: AssignedSet) -> None:
        try:
            judge = JudgeProcess(assigned)
        except OSError as error:
            assigned.unable = _not_started(str(error))
            return
        self._judges.append(judge)
        self._selector.register(judge.replies, EVENT_READ, judge)
        self._selector.register(judge.questions, EVENT_WRITE, judge)

    def _hand(self, judge: JudgeProcess, asked: Asked) -> None:
        judge.ask(asked)
        if judge.unsent:
            self._selector.register(judge.questions, EVENT_WRITE, judge)

    def _dismiss(self, judge: JudgeProcess) -> str:
        self._judges.remove(judge)
        self._selector.unregister(judge.replies)
        if judge.questions in self._selector.get_map():
            self._selector.unregister(judge.questions)
        return judge.end()

    def _receive(self, judge: JudgeProcess) -> None:
        try:
            reply = judge.receive()
        except JudgeEnded:
            self._bury(judge)
            return
        if reply is None:
            return
        if judge.asked is not None:
            self._deliver(judge, judge.asked, reply)
        elif reply.refused is None:
            judge.ready = True
            judge.assigned.unable = None
        else:
            judge.assigned.unable = Reply(0, unable=reply.refused, given=True)
            self._dismiss(judge)

    def _deliver(self, judge: JudgeProcess, asked: Asked, reply: Reply) -> None:
        judge.asked = None
        if reply.unable is not None:
            self._dismiss(judge)
            self._ask_again(asked, reply)
            return
        self._answer(reply)
        if reply.retiring:
            self._dismiss(judge)

    def _bury(self, judge: JudgeProcess) -> None:
        """Go on without a judge that has died."""
        ending = self._dismiss(judge)
        if not judge.ready:
            self._note_unable(judge, f"it {ending}")
        elif judge.asked is not None:
            why = f"the grader's process {ending}"
            self._ask_again(judge.asked, Reply(judge.asked.ticket, lost=why))

    def _ask_again(self, asked: Asked, failure: Reply) -> None:
        """Give a question to a new judge; the failure is the reply if that fails, too."""
        asked.failures += 1
        if asked.failures < MOST_FAILURES:
            self._waiting.setdefault(asked.assigned, deque()).appendleft(asked)
        else:
            self._answer(failure)

    def _note_unable(self, judge: JudgeProcess, why: str) -> None:
        judge.assigned.unable = _not_started(why)


def _unable(reason: Reply, ticket: int) -> Reply:
    return Reply(ticket, unable=reason.unable, given=reason.given)


def _not_started(why: str) -> Reply:
    return Reply(0, unable=f"no process for grading could start: {why}; see its errors above")
