"""What the tests of the wires share."""

import time

from hardware import messages as m


def until(condition, limit=20.0):
    """Waits until it holds, and returns what it returned."""
    end = time.monotonic() + limit
    while not (found := condition()):
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.01)
    return found


def arrived(publish, heard):
    """Publishes until something is heard: discovery takes a moment."""

    def tried():
        publish()
        return heard

    until(tried)


def state(i=0.0):
    return m.joint_state(["a"], [i], [0.0], stamp=1.0)
