"""What both ends of a rosbridge share: receivers of topics, questions and their answers."""

import collections
import concurrent.futures
import itertools
import logging
import secrets
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from hardware.errors import HardwareError, LinkLost
from hardware.rosbridge_codec import Malformed, Operation, typed
from hardware.rosbridge_link import Link, LoopThread, Mailbox, PostOffice
from hardware.wire import Goal, GoalStatus, Message, Pursuit, Qos, Receiver, Undo

log = logging.getLogger(__name__)

WORKERS = 32  # calls and goals executed at once
OPENING = 1.0  # s that connecting may take
ASKED = 1000  # calls and goals that wait for an answer at once
SERVICE_TIMEOUT = 10.0  # s that a call between two clients may take if it does not say

Execute = Callable[[Goal], tuple[GoalStatus, Message]]


def served(handler: Callable[[Message], Message]) -> Execute:
    """A service as an action that tells nothing before its end."""
    return lambda work: (GoalStatus.SUCCEEDED, handler(work.request))


def key(name: str) -> str:
    """A name as ROS resolves it: with a slash before it."""
    return name if name.startswith("/") else "/" + name


@dataclass(frozen=True)
class Answer:
    """How a call or a goal ended: `values` is text if it failed."""

    ok: bool
    values: Any
    status: int = GoalStatus.UNKNOWN
    lost: bool = False

    def message(self, name: str) -> Message:
        """Returns the values. Raises LinkLost, or HardwareError if it failed."""
        why = f"{name}: {self.values if isinstance(self.values, str) else 'it failed there'}"
        if self.lost:
            raise LinkLost(why)
        if not self.ok:
            raise HardwareError(why)
        return self.values if isinstance(self.values, dict) else {}


class Work:
    """A call or goal as the code that executes it sees it: a `hardware.wire.Goal`."""

    def __init__(self, request: Any, tell: Callable[[Message], None] | None) -> None:
        self.request: Message = request if isinstance(request, dict) else {}
        self.cancelled = False
        self._tell = tell

    def feedback(self, message: Message) -> None:
        """Tells the client how it goes, if it wants to know."""
        if self._tell:
            self._tell(message)

    def cancel(self) -> None:
        """Asks to end it soon."""
        self.cancelled = True

    def forget(self) -> None:
        """Does nothing: it ends by itself."""


@dataclass
class Question:
    """A call or goal that another link is to answer."""

    link: Link
    number: str
    name: str
    done: Callable[[Answer], None]
    tell: Callable[[Message], None] | None
    table: dict[str, "Question"]

    def cancel(self) -> None:
        """Asks to end it soon."""
        self.link.post({"op": "cancel_action_goal", "id": self.number, "action": self.name})

    def forget(self) -> None:
        """Wants no answer any more."""
        self.table.pop(self.number, None)


@dataclass(frozen=True)
class Provider:
    """Who answers a service or executes an action: code of ours, or another link."""

    kind: str
    execute: Execute | None = None
    link: Link | None = None
    name: str = ""  # as the link spells it


class _Pursuit:
    """A goal as its client sees it."""

    def __init__(
        self, name: str, job: Work | Question | None, answer: concurrent.futures.Future
    ) -> None:
        self._name, self._job, self._answer = name, job, answer

    def result(self, timeout: float) -> tuple[GoalStatus, Message]:
        """Waits for the end. Raises TimeoutError, LinkLost, HardwareError (refused, or failed)."""
        answer: Answer = self._answer.result(timeout)
        if answer.status == GoalStatus.ABORTED and not answer.values:
            return GoalStatus.ABORTED, {}
        return GoalStatus(answer.status), answer.message(self._name)

    def cancel(self) -> None:
        """Asks the server to cancel."""
        if self._job and not self._answer.done():
            self._job.cancel()


class Bridge:
    """What both ends share: receivers, and questions with their answers.

    Attributes:
        counts: "malformed" frames that were dropped, "left out" messages that a slow peer and
            "overrun" ones that a slow receiver missed, "aborted" and "reconnects" of links, ...
    """

    def __init__(self, alive: float, max_size: int, fragment_timeout: float) -> None:
        self.counts: collections.Counter[str] = collections.Counter()
        self._link_options = {
            "alive": alive,
            "max_size": max_size,
            "fragment_timeout": fragment_timeout,
        }
        self._socket_options = {
            "compression": None,  # it costs more time than it saves here
            "ping_interval": None,  # `Link` watches
            "close_timeout": 0.2,
            "max_size": max_size,
            "max_queue": 16,
        }
        self._lock = threading.RLock()
        self._boxes: dict[str, list[tuple[str, Mailbox]]] = {}
        self._services: dict[str, Provider] = {}
        self._actions: dict[str, Provider] = {}
        self._questions: dict[str, Question] = {}
        self._numbers, self._self = itertools.count(), secrets.token_hex(4)
        self._workers = threading.BoundedSemaphore(WORKERS)
        self._closing = False
        self._mail = PostOffice(self.counts)
        self._thread = LoopThread("rosbridge")
        self._handlers: dict[str, Callable[[Link, Operation], None]] = {
            "call_service": self._on_call,
            "service_response": self._on_answer,
            "send_action_goal": self._on_goal,
            "cancel_action_goal": self._on_cancel,
            "action_feedback": self._on_feedback,
            "action_result": self._on_answer,
            "status": self._on_status,
        }

    # ---- topics -------------------------------------------------------------------------------

    def _add_box(self, topic: str, kind: str, receiver: Receiver, qos: Qos) -> Undo:
        entry = (kind, self._mail.mailbox(receiver, qos.depth))
        with self._lock:
            self._boxes.setdefault(key(topic), []).append(entry)

        def undo() -> None:
            entry[1].close()
            with self._lock:
                left = [each for each in self._boxes.get(key(topic), []) if each is not entry]
                self._boxes[key(topic)] = left

        return undo

    def _deliver(self, topic: str, message: Message) -> None:
        stamp = time.monotonic()
        with self._lock:
            boxes = list(self._boxes.get(key(topic), ()))
        for kind, box in boxes:
            box.put(typed(message, kind), stamp)

    # ---- services and actions: asking ---------------------------------------------------------

    def _ask(
        self,
        provider: Provider | None,
        op: Operation,
        done: Callable[[Answer], None],
        tell: Callable[[Message], None] | None = None,
    ) -> Work | Question | None:
        """Has a question answered: `done` is called once, from any thread, maybe at once."""
        what = "service" if op["op"] == "call_service" else "action"
        if provider is None:
            return done(Answer(False, f"nobody serves this {what}"))
        if provider.execute is not None:
            return self._start(provider.execute, Work(op.get("args"), tell), done)
        number = f"{op['op']}:{op[what]}:{self._self}:{next(self._numbers)}"
        link = provider.link
        question = Question(link, number, provider.name or op[what], done, tell, self._questions)
        with self._lock:
            full = len(self._questions) >= ASKED
            if not full:
                self._questions[number] = question
        if full:
            return done(Answer(False, f"{ASKED} calls and goals wait for an answer already"))
        try:
            sent = link.post({**op, "id": number, what: question.name})
        except Malformed:
            question.forget()
            raise
        if not sent:
            self._settle(number, Answer(False, "the link is down", lost=True))
            return None
        return question

    def _start(self, execute: Execute, work: Work, done: Callable[[Answer], None]) -> Work | None:
        if not self._workers.acquire(blocking=False):
            return done(Answer(False, f"{WORKERS} calls and goals are executed already"))

        def run() -> None:
            try:
                status, values = execute(work)
                answer = Answer(True, values, int(status))
            except Exception as error:  # whoever asked is told
                log.warning("a service or action failed", exc_info=True)
                answer = Answer(False, f"{type(error).__name__}: {error}", GoalStatus.ABORTED)
            finally:
                self._workers.release()
            try:
                done(answer)
            except Malformed as error:
                done(Answer(False, str(error), GoalStatus.ABORTED))

        threading.Thread(target=run, name="rosbridge work", daemon=True).start()
        return work

    def _settle(self, number: str, answer: Answer) -> None:
        with self._lock:
            question = self._questions.pop(number, None)
        if question:
            question.done(answer)

    def _wait_call(
        self, provider: Provider | None, service: str, kind: str, request: Message, timeout: float
    ) -> Message:
        future: concurrent.futures.Future[Answer] = concurrent.futures.Future()
        op = {"op": "call_service", "service": service, "type": kind, "args": request}
        job = self._ask(provider, op, future.set_result)
        try:
            return future.result(timeout).message(service)
        except TimeoutError:
            raise TimeoutError(f"{service} did not answer within {timeout} s") from None
        finally:
            if job:
                job.forget()

    def _pursue(
        self,
        provider: Provider | None,
        action: str,
        kind: str,
        goal: Message,
        feedback: Callable[[Message], None] | None,
    ) -> Pursuit:
        future: concurrent.futures.Future[Answer] = concurrent.futures.Future()
        tell = self._mail.mailbox(feedback, 100).put if feedback else None
        op = {"op": "send_action_goal", "action": action, "action_type": kind, "args": goal}
        op["feedback"] = feedback is not None
        return _Pursuit(action, self._ask(provider, op, future.set_result, tell), future)

    # ---- services and actions: being asked ----------------------------------------------------

    def _handle(self, link: Link, op: Operation) -> None:
        handler = self._handlers.get(op["op"])
        if handler is None:
            raise Malformed(f"{op['op']} is not for this end")
        handler(link, op)

    def _on_call(self, link: Link, op: Operation) -> None:
        reply = {"op": "service_response", "service": op["service"], "id": op.get("id")}
        form = {"png": op.get("compression") == "png", "size": int(op.get("fragment_size", 0))}

        def done(answer: Answer) -> None:
            link.post({**reply, "values": answer.values, "result": answer.ok}, **form)

        passed = {name: op[name] for name in ("op", "service", "type", "args") if name in op}
        job = self._ask(self._services.get(key(op["service"])), passed, done)
        if isinstance(job, Question):
            late = Answer(False, "no answer in time")
            seconds = min(60.0, max(0.0, op.get("timeout") or SERVICE_TIMEOUT))
            self._thread.loop.call_later(seconds, self._settle, job.number, late)

    def _on_goal(self, link: Link, op: Operation) -> None:
        name, action = op["id"], op["action"]
        head = {"id": name, "action": action}
        form = {"png": op.get("compression") == "png", "size": int(op.get("fragment_size", 0))}

        def done(answer: Answer) -> None:
            reply = {"values": answer.values, "status": answer.status, "result": answer.ok}
            link.post({"op": "action_result", **head, **reply}, **form)
            with self._lock:
                link.jobs.pop(name, None)

        def tell(message: Message) -> None:
            link.post({"op": "action_feedback", **head, "values": message}, **form, spare=True)

        if name in link.jobs:
            raise Malformed(f"send_action_goal: a goal {name!r} is under way")
        passed = {n: op[n] for n in ("op", "action", "action_type", "args", "feedback") if n in op}
        with self._lock:  # so that `done` comes after
            wanted = tell if op.get("feedback") else None
            job = self._ask(self._actions.get(key(action)), passed, done, wanted)
            if job:
                link.jobs[name] = job

    def _on_cancel(self, link: Link, op: Operation) -> None:
        if job := link.jobs.get(op["id"]):
            job.cancel()

    def _on_answer(self, link: Link, op: Operation) -> None:
        question = self._questions.get(op["id"])
        if question is None or question.link is not link:  # too late, or none of its business
            self.counts["unasked"] += 1
            return
        try:
            status = GoalStatus(op.get("status", GoalStatus.UNKNOWN))
        except ValueError as error:
            raise Malformed(f"{op['op']}: {error}") from error
        self._settle(op["id"], Answer(op["result"], op.get("values"), status))

    def _on_feedback(self, link: Link, op: Operation) -> None:
        question = self._questions.get(op["id"])
        if question and question.link is link and question.tell and isinstance(op["values"], dict):
            question.tell(op["values"])

    def _on_status(self, link: Link, op: Operation) -> None:
        self.counts[f"status {op['level']}"[:20]] += 1
        log.warning("rosbridge: the other end says %s: %s", op["level"], op.get("msg"))

    def _lost(self, link: Link) -> None:
        """Ends what hangs on a link: goals it sent are cancelled, answers it owed are lost."""
        with self._lock:
            jobs = list(link.jobs.values())
            owed = [q.number for q in self._questions.values() if q.link is link]
        for job in jobs:
            job.cancel()
        for number in owed:
            self._settle(number, Answer(False, "the link broke before the answer", lost=True))

    def _end(self, work: Callable[[], Coroutine] | None) -> None:
        if self._closing:
            return
        self._closing = True
        if work:
            self._thread.start(work()).result(5.0)
        self._thread.close()
        self._mail.close()
