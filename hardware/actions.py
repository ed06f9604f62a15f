"""ROS 2 actions out of services and topics, for transports that have no actions of their own.

An action is three services (`send_goal`, `cancel_goal`, `get_result`) and two topics (`feedback`,
`status`) below its name. Source: the ROS 2 design article "Actions" and `rcl_action`.
"""

import collections
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from hardware.errors import HardwareError, LinkLost
from hardware.messages import time_message
from hardware.wire import LATCHED, Goal, GoalStatus, Message, Pursuit, Qos, Receiver, Undo

CANCEL = "action_msgs/srv/CancelGoal"
STATUS = "action_msgs/msg/GoalStatusArray"
FEEDBACK_QOS = Qos(reliable=True, depth=10)
ACTIVE = 8
"""Goals that one server executes at a time; further ones are rejected."""
KEPT = 32
"""Ended goals whose results can still be asked for."""

_ENDS = (GoalStatus.SUCCEEDED, GoalStatus.CANCELED, GoalStatus.ABORTED)
_UNKNOWN_GOAL, _ENDED_GOAL = 2, 3  # CancelGoal's codes
_log = logging.getLogger(__name__)

Answer = Callable[[Message], None]


class Parts(Protocol):
    """What is needed of a transport; see `ZenohWire`."""

    def publish_until(self, topic: str, kind: str, qos: Qos) -> tuple[Answer, Undo]: ...  # noqa: D102

    def subscribe(self, topic: str, kind: str, receiver: Receiver, qos: Qos) -> Undo: ...  # noqa: D102

    def serve_later(  # noqa: D102
        self, service: str, kind: str, take: Callable[[Message, Answer], None]
    ) -> Undo: ...

    def call(self, service: str, kind: str, request: Message, timeout: float) -> Message: ...  # noqa: D102


class Actions:
    """A wire's actions, both sides."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._servers: list[_Server] = []
        self._listeners: dict[tuple[str, str], dict[bytes, Answer]] = {}

    def serve(
        self, action: str, kind: str, execute: Callable[[Goal], tuple[GoalStatus, Message]]
    ) -> Undo:
        """See `Wire.serve_action`."""
        server = _Server(self._parts, action, kind, execute)
        self._servers.append(server)
        return server.close

    def send(
        self,
        action: str,
        kind: str,
        goal: Message,
        feedback: Answer | None,
        timeout: float,
    ) -> Pursuit:
        """See `Wire.send_goal`."""
        identity = os.urandom(16)
        if (action, kind) not in self._listeners and feedback:
            self._listen(action, kind)
        listeners = self._listeners.get((action, kind), {})
        if feedback:
            listeners[identity] = feedback
        request = {"goal_id": {"uuid": identity}, "goal": goal}
        try:
            reply = self._parts.call(
                f"{action}/_action/send_goal", f"{kind}_SendGoal", request, timeout
            )
            if not reply["accepted"]:
                raise HardwareError(f"{action}: the server rejected the goal")
        except BaseException:
            listeners.pop(identity, None)
            raise
        return _Pursuit(self._parts, action, kind, identity, listeners)

    def _listen(self, action: str, kind: str) -> None:
        listeners: dict[bytes, Answer] = {}

        def hear(message: Message, _: float) -> None:
            if told := listeners.get(bytes(message["goal_id"]["uuid"])):
                told(message["feedback"])

        self._parts.subscribe(
            f"{action}/_action/feedback", f"{kind}_FeedbackMessage", hear, FEEDBACK_QOS
        )
        self._listeners[action, kind] = listeners

    def close(self) -> None:
        """Asks all goals that are executed here to end."""
        for server in self._servers:
            server.cancel_all()


class _Pursuit:
    """The client's side of a goal."""

    def __init__(
        self,
        parts: Parts,
        action: str,
        kind: str,
        identity: bytes,
        listeners: dict[bytes, Answer],
    ) -> None:
        self._parts, self._action, self._kind, self._id = parts, action, kind, identity
        self._listeners = listeners

    def result(self, timeout: float) -> tuple[GoalStatus, Message]:
        reply = self._parts.call(
            f"{self._action}/_action/get_result",
            f"{self._kind}_GetResult",
            {"goal_id": {"uuid": self._id}},
            timeout,
        )
        self._listeners.pop(self._id, None)
        if reply["status"] not in _ENDS:
            raise HardwareError(
                f"{self._action}: the server does not know this goal (status {reply['status']}); "
                "it may have been started anew"
            )
        return GoalStatus(reply["status"]), reply["result"]

    def cancel(self) -> None:
        request = {"goal_info": {"goal_id": {"uuid": self._id}}}
        self._parts.call(f"{self._action}/_action/cancel_goal", CANCEL, request, 2.0)


@dataclass
class _Goal:
    """The server's side of a goal."""

    identity: bytes
    request: Message
    accepted: Message
    tell: Answer
    asked_to_end: threading.Event = field(default_factory=threading.Event)
    status: GoalStatus = GoalStatus.EXECUTING
    result: Message = field(default_factory=dict)
    waiting: list[Answer] = field(default_factory=list)

    @property
    def cancelled(self) -> bool:
        return self.asked_to_end.is_set()

    def feedback(self, message: Message) -> None:
        self.tell({"goal_id": {"uuid": self.identity}, "feedback": message})

    @property
    def info(self) -> Message:
        return {"goal_id": {"uuid": self.identity}, "stamp": self.accepted}

    @property
    def outcome(self) -> Message:
        return {"status": int(self.status), "result": self.result}


class _Server:
    """Executes an action's goals."""

    def __init__(
        self,
        parts: Parts,
        action: str,
        kind: str,
        execute: Callable[[Any], tuple[GoalStatus, Message]],
    ) -> None:
        self._execute, self._action = execute, action
        self._goals: collections.OrderedDict[bytes, _Goal] = collections.OrderedDict()
        self._lock = threading.RLock()
        self._undo: list[Undo] = []
        below = f"{action}/_action"
        feedback, undo = parts.publish_until(
            f"{below}/feedback", f"{kind}_FeedbackMessage", FEEDBACK_QOS
        )
        self._feedback = _heedless(feedback)
        self._undo.append(undo)
        status, undo = parts.publish_until(f"{below}/status", STATUS, LATCHED)
        self._status = _heedless(status)
        self._undo.append(undo)
        for name, of, take in (
            ("send_goal", f"{kind}_SendGoal", self._take_goal),
            ("get_result", f"{kind}_GetResult", self._take_result),
            ("cancel_goal", CANCEL, self._take_cancel),
        ):
            self._undo.append(parts.serve_later(f"{below}/{name}", of, take))

    def close(self) -> None:
        self.cancel_all()
        while self._undo:
            self._undo.pop()()

    def cancel_all(self) -> None:
        with self._lock:
            for goal in self._goals.values():
                goal.asked_to_end.set()

    def _take_goal(self, request: Message, answer: Answer) -> None:
        identity, now = bytes(request["goal_id"]["uuid"]), time_message(time.time())
        with self._lock:
            active = sum(goal.status not in _ENDS for goal in self._goals.values())
            accepted = identity not in self._goals and active < ACTIVE
            if accepted:
                goal = _Goal(identity, request["goal"], now, self._feedback)
                self._goals[identity] = goal
        answer({"accepted": accepted, "stamp": now})
        if accepted:
            self._publish()
            name = f"goal of {self._action}"
            threading.Thread(target=self._run, args=(goal,), name=name, daemon=True).start()

    def _run(self, goal: _Goal) -> None:
        try:
            status, result = self._execute(goal)
        except Exception:
            _log.exception("%s: the goal's execution failed", self._action)
            status, result = GoalStatus.ABORTED, {}
        with self._lock:
            goal.status, goal.result = GoalStatus(status), result
            waiting, goal.waiting = goal.waiting, []
            ended = [g.identity for g in self._goals.values() if g.status in _ENDS]
            for identity in ended[:-KEPT]:
                del self._goals[identity]
        self._publish()
        for answer in waiting:
            answer(goal.outcome)

    def _take_result(self, request: Message, answer: Answer) -> None:
        with self._lock:
            goal = self._goals.get(bytes(request["goal_id"]["uuid"]))
            if goal and goal.status not in _ENDS:
                goal.waiting = [*goal.waiting[-ACTIVE:], answer]
                return
        answer(goal.outcome if goal else {"status": int(GoalStatus.UNKNOWN)})

    def _take_cancel(self, request: Message, answer: Answer) -> None:
        info = request["goal_info"]
        identity, stamp = bytes(info["goal_id"]["uuid"]), _moment(info["stamp"])
        with self._lock:
            known = identity in self._goals
            chosen = [g for g in self._goals.values() if _is_meant(g, identity, stamp)]
            active = [goal for goal in chosen if goal.status not in _ENDS]
            for goal in active:
                goal.status = GoalStatus.CANCELING
                goal.asked_to_end.set()
        code = 0
        if not active and any(identity):
            code = _ENDED_GOAL if known else _UNKNOWN_GOAL
        answer({"return_code": code, "goals_canceling": [goal.info for goal in active]})
        self._publish()

    def _publish(self) -> None:
        with self._lock:
            known = [{"goal_info": g.info, "status": int(g.status)} for g in self._goals.values()]
        self._status({"status_list": known})


def _heedless(publish: Answer) -> Answer:
    """A goal goes on though its client cannot be told: its executor looks after the motion."""

    def told(message: Message) -> None:
        try:
            publish(message)
        except LinkLost as error:
            _log.debug("not told: %s", error)

    return told


def _moment(stamp: Message) -> tuple[int, int]:
    return stamp["sec"], stamp["nanosec"]


def _is_meant(goal: _Goal, identity: bytes, stamp: tuple[int, int]) -> bool:
    """CancelGoal's rule: this goal, those accepted until a time, or with neither given all."""
    if not any(identity) and stamp == (0, 0):
        return True
    return goal.identity == identity or (stamp != (0, 0) and _moment(goal.accepted) <= stamp)
