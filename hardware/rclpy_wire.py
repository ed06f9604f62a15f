"""ROS 2 itself, where it is installed.

Unproven: rclpy comes with a ROS distribution and not from a package index, so the tests of this
repository reach no further than the conversion of messages. It keeps to the public API of rclpy in
Jazzy. Try it against your graph with an arm that is off, or in simulation, before you trust it.
"""

import threading
import time
from collections.abc import Callable
from typing import Any

from hardware.errors import HardwareError, LinkLost
from hardware.rclpy_messages import fill, interface, read
from hardware.wire import COMMAND, STATE, Goal, GoalStatus, Message, Pursuit, Qos, Receiver, Undo


class RclpyWire:
    """`hardware.wire.Wire` on a node of rclpy, with an executor of its own.

    DDS has no link that could be lost: `connected` says whether the node runs, and whether anybody
    listens shows only in the states that come back.
    """

    def __init__(
        self, node: str = "embodied", *, namespace: str = "/", domain: int | None = None
    ) -> None:
        """Starts a node.

        Raises:
            ImportError: there is no rclpy for this Python.
        """
        try:
            import rclpy
            from rclpy.executors import MultiThreadedExecutor
        except ImportError as error:
            raise ImportError(
                "rclpy is not there: source ROS 2's setup.bash and use the Python it was built for,"
                " or reach ROS by hardware.zenoh_ros or rosbridge, which need none"
            ) from error
        self._context = rclpy.Context()
        rclpy.init(context=self._context, domain_id=domain)
        self._node = rclpy.create_node(node, namespace=namespace, context=self._context)
        self._executor = MultiThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._executor.spin, name="rclpy", daemon=True)
        self._thread.start()
        self._clients: dict[tuple[str, str], Any] = {}

    @property
    def connected(self) -> bool:
        """Whether the node runs."""
        return self._context.ok()

    def publisher(self, topic: str, kind: str, qos: Qos = COMMAND) -> Callable[[Message], None]:
        """See `Wire`."""
        of = interface("message", kind)
        publisher = self._node.create_publisher(of, topic, _profile(qos))

        def publish(message: Message) -> None:
            if not self.connected:
                raise LinkLost("the node has been shut down")
            publisher.publish(fill(of(), message))

        return publish

    def subscribe(self, topic: str, kind: str, receiver: Receiver, qos: Qos = STATE) -> Undo:
        """See `Wire`."""
        of = interface("message", kind)
        subscription = self._node.create_subscription(
            of, topic, lambda message: receiver(read(message), time.monotonic()), _profile(qos)
        )
        return lambda: self._node.destroy_subscription(subscription)

    def serve(self, service: str, kind: str, handler: Callable[[Message], Message]) -> Undo:
        """See `Wire`."""
        server = self._node.create_service(
            interface("service", kind),
            service,
            lambda request, response: fill(response, handler(read(request))),
        )
        return lambda: self._node.destroy_service(server)

    def call(self, service: str, kind: str, request: Message, timeout: float) -> Message:
        """See `Wire`."""
        of, end = interface("service", kind), time.monotonic() + timeout
        if (service, kind) not in self._clients:
            self._clients[service, kind] = self._node.create_client(of, service)
        client = self._clients[service, kind]
        if not client.wait_for_service(timeout_sec=timeout):
            raise TimeoutError(f"{service}: no server of type {kind} within {timeout:g} s")
        future = client.call_async(fill(of.Request(), request))
        return read(_wait(future, end - time.monotonic(), service))

    def serve_action(
        self, action: str, kind: str, execute: Callable[[Goal], tuple[GoalStatus, Message]]
    ) -> Undo:
        """See `Wire`."""
        from rclpy.action import ActionServer, CancelResponse
        from rclpy.callback_groups import ReentrantCallbackGroup

        of = interface("action", kind)

        def run(handle: Any) -> Any:
            status, result = execute(_Goal(handle, of))
            ends = {GoalStatus.SUCCEEDED: handle.succeed, GoalStatus.CANCELED: handle.canceled}
            ends.get(status, handle.abort)()
            return fill(of.Result(), result)

        server = ActionServer(
            self._node,
            of,
            action,
            execute_callback=run,
            cancel_callback=lambda _: CancelResponse.ACCEPT,
            callback_group=ReentrantCallbackGroup(),
        )
        return server.destroy

    def send_goal(
        self,
        action: str,
        kind: str,
        goal: Message,
        feedback: Callable[[Message], None] | None = None,
        timeout: float = 2.0,
    ) -> Pursuit:
        """See `Wire`."""
        from rclpy.action import ActionClient

        of, end = interface("action", kind), time.monotonic() + timeout
        if (action, kind) not in self._clients:
            self._clients[action, kind] = ActionClient(self._node, of, action)
        client = self._clients[action, kind]
        if not client.wait_for_server(timeout_sec=timeout):
            raise TimeoutError(f"{action}: no server of type {kind} within {timeout:g} s")
        tell = (lambda told: feedback(read(told.feedback))) if feedback else None
        future = client.send_goal_async(fill(of.Goal(), goal), feedback_callback=tell)
        handle = _wait(future, end - time.monotonic(), action)
        if not handle.accepted:
            raise HardwareError(f"{action}: the server rejected the goal")
        return _Pursuit(handle, action)

    def close(self) -> None:
        """Ends the node and its executor."""
        self._executor.shutdown()
        self._node.destroy_node()
        self._context.try_shutdown()
        self._thread.join(2.0)


class _Goal:
    def __init__(self, handle: Any, of: Any) -> None:
        self._handle, self._of = handle, of
        self.request = read(handle.request)

    @property
    def cancelled(self) -> bool:
        return self._handle.is_cancel_requested

    def feedback(self, message: Message) -> None:
        self._handle.publish_feedback(fill(self._of.Feedback(), message))


class _Pursuit:
    def __init__(self, handle: Any, action: str) -> None:
        self._handle, self._action = handle, action
        self._result = handle.get_result_async()

    def result(self, timeout: float) -> tuple[GoalStatus, Message]:
        reply = _wait(self._result, timeout, self._action)
        return GoalStatus(reply.status), read(reply.result)

    def cancel(self) -> None:
        _wait(self._handle.cancel_goal_async(), 2.0, self._action)


def _wait(future: Any, timeout: float, what: str) -> Any:
    done = threading.Event()
    future.add_done_callback(lambda _: done.set())
    if not done.wait(max(timeout, 0.0)):
        raise TimeoutError(f"{what}: no answer in time")
    if future.exception() is not None:
        raise HardwareError(f"{what}: {future.exception()}")
    return future.result()


def _profile(qos: Qos) -> Any:
    from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

    return QoSProfile(
        depth=qos.depth,
        reliability=ReliabilityPolicy.RELIABLE if qos.reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if qos.latched else DurabilityPolicy.VOLATILE,
    )
