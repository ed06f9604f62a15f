"""The safety envelope: pure checks, in the order they are made, and the motion they leave.

Each check looks at what it is handed and nothing else. `Envelope.step` runs them in order and
returns the next position to send. Whatever comes in, what goes out keeps position, velocity,
acceleration and workspace at the period of the robot: motion is only begun that can be ended inside
the limits by braking, so braking is always left as a way out.

    v_max(d): the largest velocity that braking by a dt per step ends within the distance d
              sum of v, v - a dt, v - 2 a dt, ... times dt <= d
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from hardware.kinematics import Point
from hardware.limits import Limits, Workspace
from hardware.types import Act, Cause, Command, RobotState


def finite(command: Command, state: RobotState) -> bool:
    """Whether every number is finite; comparisons with NaN are false, so clamps miss it."""
    total = command.position.sum() + state.position.sum() + state.velocity.sum()
    total += state.effort.sum() + (0.0 if command.gripper is None else command.gripper)
    total += 0.0 if state.wrench is None else state.wrench.sum()
    total += command.stamp + state.stamp + state.gripper
    return bool(np.isfinite(total)) or _finite_each(command, state)


def _finite_each(command: Command, state: RobotState) -> bool:
    """The same, where a sum of large finite numbers overflowed."""
    values = [command.position, state.position, state.velocity, state.effort]
    values += [[command.stamp, state.stamp, state.gripper, command.gripper or 0.0]]
    values += [] if state.wrench is None else [state.wrench]
    return all(np.isfinite(value).all() for value in values)


def fresh(now: float, command: Command, state: RobotState, limits: Limits) -> bool:
    """Whether command and observation are young enough, and not of the future."""
    young = now - state.stamp <= limits.observation_age
    return young and -1e-3 <= now - command.stamp <= limits.command_age


def seen(now: float, command: Command, limits: Limits) -> bool:
    """Whether the motion was decided on after a look that is recent enough."""
    return command.observed is None or now - command.observed <= limits.blind


def gentle(state: RobotState, limits: Limits) -> bool:
    """Whether force and torque at the tool are within their limits."""
    if state.wrench is None:
        return True
    force, torque = state.wrench[:3], state.wrench[3:]
    return bool(force @ force <= limits.force**2 and torque @ torque <= limits.torque**2)


def behind(state: RobotState, sent: np.ndarray) -> float:
    """How far the arm's worst joint is from where it was sent, rad; NaN if a number is."""
    return float(np.abs(state.position - sent).max())


def patience(lag: float, limits: Limits) -> float:
    """Which share of its speed the arm's lag in rad leaves to the motion.

    All of it up to half the lag that is allowed, then less: an arm that is late, as one behind a
    slow link is, gets the time to catch up. Never less than a fifth: one that is blocked must still
    be found out.
    """
    return min(1.0, max(0.2, 1.8 - 1.6 * lag / limits.tracking))


def slowed(
    wanted: np.ndarray, sent: np.ndarray, share: float, limits: Limits, period: float
) -> np.ndarray:
    """The wish at a share of the speed that the step towards it would have, rad, [n]."""
    most = limits.velocity * period
    return sent + share * np.clip(wanted - sent, -most, most)


def braking_velocity(distance: float, change: float, period: float) -> float:
    """The largest velocity that can be ended within a distance.

    Args:
        distance: rad, at least 0.
        change: rad/s, the largest change of velocity per step.
        period: s per step; the velocity holds during the step that begins now.

    Returns:
        rad/s. With x = distance / (change * period) and v = n * change, the distance of n whole
        steps is x = n (n + 1) / 2, and linear between whole numbers.
    """
    x = distance / (change * period)
    whole = math.floor(math.sqrt(0.25 + 2.0 * x) - 0.5)
    return change * (whole + (x - whole * (whole + 1.0) / 2.0) / (whole + 1.0))


def braking_distance(velocity: float, change: float, period: float) -> float:
    """The least distance for which `braking_velocity` is that, rad."""
    steps = velocity / change
    whole = math.floor(steps)
    x = whole * (whole + 1.0) / 2.0 + (steps - whole) * (whole + 1.0)
    return x * change * period


def clearance(position: Point, approach: Point, workspace: Workspace) -> tuple[float, float]:
    """How far the tool is inside the workspace; negative outside.

    Args:
        position: m.
        approach: the direction the tool points in.
        workspace: box and cone.

    Returns:
        To the nearest face of the box, m, and to the edge of the cone, rad.
    """
    (x, y, z), (i, j, k) = position, workspace.axis
    (x0, y0, z0), (x1, y1, z1) = workspace.lower, workspace.upper
    cosine = approach[0] * i + approach[1] * j + approach[2] * k
    box = min(x - x0, y - y0, z - z0, x1 - x, y1 - y, z1 - z)
    return box, workspace.angle - math.acos(max(-1.0, min(cosine, 1.0)))


@dataclass(frozen=True)
class Motion:
    """What was sent last.

    Attributes:
        position: rad, [n].
        velocity: rad/s, [n], of the step that led there.
        box: m, how far the tool is inside the box at least; -inf where that is not known.
        cone: rad, the same for the cone.
        aim: rad, [n], what was wished for last; how it moves tells a path from a jump.
        since: periods since then.
    """

    position: np.ndarray
    velocity: np.ndarray
    box: float = -math.inf
    cone: float = -math.inf
    aim: np.ndarray | None = None
    since: int = 1


class Envelope:
    """The limits of one arm's motion, step by step."""

    def __init__(self, limits: Limits, period: float) -> None:
        """Prepares the limits of one step.

        Args:
            limits: of the arm.
            period: s between commands.
        """
        self.limits, self.period = limits, period
        self._lower, self._upper = limits.lower.tolist(), limits.upper.tolist()
        self._fastest = limits.velocity.tolist()
        self._change = (limits.acceleration * period).tolist()
        self._ample = [  # with this much space, the range of a joint does not matter
            braking_distance(most, change, period) * (1.0 + 1e-9)
            for most, change in zip(self._fastest, self._change, strict=True)
        ]
        self._reach = limits.chain.reach.tolist()

    def next(self, motion: Motion, wanted: np.ndarray) -> tuple[Motion, Act, tuple[Cause, ...]]:
        """The step towards a position that keeps every limit of joints and workspace.

        Args:
            motion: what was sent last.
            wanted: rad, [n], finite.

        Returns:
            The next motion, what was done to the wish, and the limits that acted. A wish inside
            all limits is passed on unchanged.
        """
        wanted = np.array(wanted, float)  # kept, whatever the caller does with it
        at, before = motion.position.tolist(), motion.velocity.tolist()
        velocity = [(w - q) / self.period for w, q in zip(wanted.tolist(), at, strict=True)]
        bounds = [self._bounds(i, at[i], before[i]) for i in range(len(at))]
        causes: tuple[Cause, ...] = ()
        found = wanted
        if not all(low <= v <= high for v, (low, high) in zip(velocity, bounds, strict=True)):
            aim = wanted if motion.aim is None else motion.aim
            moving = ((wanted - aim) / (motion.since * self.period)).tolist()
            velocity, causes = self._limited(before, velocity, moving, bounds)
            found = motion.position + np.array(velocity) * self.period
        inside = self._inside(motion, Motion(found, np.array(velocity), aim=wanted))
        if inside is None:
            return self.brake(motion), Act.HOLD, (*causes, Cause.WORKSPACE)
        return inside, Act.LIMIT if causes else Act.PASS, causes

    def brake(self, motion: Motion) -> Motion:
        """The step that slows down as fast as accelerations allow."""
        velocity = motion.velocity - np.clip(motion.velocity, *self._changes())
        position = motion.position + velocity * self.period
        return Motion(position, velocity, aim=motion.aim, since=motion.since + 1)

    def coast(self, motion: Motion) -> Motion:
        """The step that goes on as before, as far as the limits let it."""
        onward, _, _ = self.next(motion, motion.position + motion.velocity * self.period)
        return replace(onward, aim=motion.aim, since=motion.since + 1)

    def _changes(self) -> tuple[np.ndarray, np.ndarray]:
        change = np.array(self._change)
        return -change, change

    def _bounds(self, joint: int, at: float, before: float) -> tuple[float, float]:
        """Velocities a joint may have in the next step, whatever the others do."""
        change, period, fastest = self._change[joint], self.period, self._fastest[joint]
        above, below = self._upper[joint] - at, at - self._lower[joint]
        high, low = fastest, -fastest
        if above < self._ample[joint]:
            high = min(braking_velocity(max(above, 0.0), change, period), fastest)
        if below < self._ample[joint]:
            low = -min(braking_velocity(max(below, 0.0), change, period), fastest)
        # outside the range (it was narrowed, or the arm moved by hand) only the way back is left
        high = max(min(high, before + change), before - change)
        low = min(max(low, before - change), before + change)
        return low, high

    def _limited(
        self,
        before: list[float],
        wish: list[float],
        moving: list[float],
        bounds: list[tuple[float, float]],
    ) -> tuple[list[float], tuple[Cause, ...]]:
        """The wish scaled as a whole, so that it keeps its direction; then each joint's own.

        The aim is approached as fast as still allows to come to rest beside it as it moves.
        """
        causes = []
        velocity, fastest, change = wish, self._fastest, self._change
        if max(abs(v) / most for v, most in zip(wish, fastest, strict=True)) > 1.0:
            causes.append(Cause.VELOCITY)
        if max(abs(v - b) / c for v, b, c in zip(wish, before, change, strict=True)) > 1.0:
            causes.append(Cause.ACCELERATION)
        moving = [min(max(m, -most), most) for m, most in zip(moving, fastest, strict=True)]
        nearing = [v - m for v, m in zip(velocity, moving, strict=True)]
        excess = 1.0
        for n, w, c in zip(nearing, wish, change, strict=True):
            if abs(n) > excess * c:  # else it can stop within a step
                most = braking_velocity(abs(w) * self.period, c, self.period)
                excess = max(excess, abs(n) / max(most, c))
        if excess > 1.0:
            velocity = [m + n / excess for m, n in zip(moving, nearing, strict=True)]
        excess = max(abs(v) / most for v, most in zip(velocity, fastest, strict=True))
        if excess > 1.0:
            velocity = [v / excess for v in velocity]
        excess = max(abs(v - b) / c for v, b, c in zip(velocity, before, change, strict=True))
        if excess > 1.0:
            velocity = [b + (v - b) / excess for v, b in zip(velocity, before, strict=True)]
        own = [min(max(v, low), high) for v, (low, high) in zip(velocity, bounds, strict=True)]
        # more than rounding: a joint must brake for the end of its range
        if not causes or any(abs(a - b) > 1e-9 for a, b in zip(own, velocity, strict=True)):
            causes.append(Cause.POSITION)
        return own, tuple(causes)

    def _inside(self, before: Motion, motion: Motion) -> Motion | None:
        """The motion with its clearance if the tool stays inside, braking included.

        A tool that is outside (the box was narrowed) may move towards the inside.
        """
        travel = turned = swept = wound = 0.0  # until rest, and of that after this step
        at, speeds = motion.position.tolist(), motion.velocity.tolist()
        for i, (q, b) in enumerate(zip(at, before.position.tolist(), strict=True)):
            # the continuous bound on the braking distance, above that in steps
            braking = speeds[i] ** 2 / (2.0 * self._change[i]) * self.period
            moved = abs(q - b) + braking
            travel, turned = travel + self._reach[i] * moved, turned + moved
            swept, wound = swept + self._reach[i] * braking, wound + braking
        if before.box > travel and before.cone > turned:
            return replace(motion, box=before.box - travel, cone=before.cone - turned)
        box, cone = self._room(at)
        if box > swept and cone > wound:
            return replace(motion, box=box, cone=cone)
        path = [before.position.tolist(), *self._braking_path(motion).tolist()]
        first, last = min(self._room(path[0])), min(self._room(path[-1]))
        if (first < 0.0 and last > first) or self._stays(path[1:]):
            return replace(motion, box=box, cone=cone)
        return None

    def _room(self, joints: list[float]) -> tuple[float, float]:
        """`clearance` of the tool at joint positions."""
        return clearance(*self.limits.chain.point(joints), self.limits.workspace)

    def _stays(self, path: list[list[float]]) -> bool:
        """Whether the tool is inside at all positions of a path on which no joint turns back.

        Between two of them it moves no further than the joints' ways let it, so that most need not
        be looked at.
        """
        parts = [(0, len(path) - 1, self._room(path[0]), self._room(path[-1]))]
        if min(*parts[0][2], *parts[0][3]) < 0.0:
            return False
        while parts:
            i, j, begin, end = parts.pop()
            turns = [abs(a - b) for a, b in zip(path[i], path[j], strict=True)]
            travel = sum(r * turn for r, turn in zip(self._reach, turns, strict=True))
            if j - i < 2 or (begin[0] + end[0] > travel and begin[1] + end[1] > sum(turns)):
                continue
            middle = (i + j) // 2
            room = self._room(path[middle])
            if min(room) < 0.0:
                return False
            parts += [(i, middle, begin, room), (middle, j, room, end)]
        return True

    def _braking_path(self, motion: Motion) -> np.ndarray:
        """Positions [k, n] of this step and of the braking steps after it, until rest."""
        speed, change = np.abs(motion.velocity), np.array(self._change)
        steps = math.ceil((speed / change).max())
        speeds = np.maximum(speed - np.arange(steps + 1)[:, None] * change, 0.0)
        speeds[0] = 0.0  # the step itself is in the position
        return motion.position + np.cumsum(speeds * np.sign(motion.velocity), 0) * self.period
