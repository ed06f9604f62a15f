"""What can go wrong with a robot, in words for its operator."""


class HardwareError(Exception):
    """Base of the errors this package raises."""


class NotReady(HardwareError, RuntimeError):
    """The robot is in a lifecycle state in which this is not possible; the message says which."""


class OwnedByAnother(HardwareError, RuntimeError):
    """Somebody else may command the robot at present."""


class Latched(HardwareError, RuntimeError):
    """The stop is latched; an operator has to reset it, with a reason."""


class StillMoving(HardwareError, RuntimeError):
    """The stop cannot be reset now: the arm moves, or the enabling switch was not let go."""


class LimitsError(HardwareError, ValueError):
    """A file of limits is missing or wrong; the message says where."""


class LinkLost(HardwareError, ConnectionError):
    """The robot does not answer any more."""


class Disarmed(HardwareError, RuntimeError):
    """The robot has stopped following by itself; it must be armed again. The message says why."""
