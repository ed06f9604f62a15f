"""A TCP relay between two ends, in which a link can fail as networks do."""

import contextlib
import socket
import threading


class Relay:
    """TCP connections that can be cut, fall silent for a while or for good.

    Attributes:
        port: where it listens on loopback.
        flows: while it is cleared, what is sent is held back, and then comes all at once.
        deaf: whether everything is swallowed, on new connections too.
    """

    def __init__(self, target: int) -> None:
        """Relays what connects to `port` to the port `target` on loopback."""
        self._target, self._open, self._mute = target, [], set()
        self.flows, self.deaf = threading.Event(), False
        self.flows.set()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def mute(self) -> None:
        """Everything on the present connections is swallowed from now on; nobody is told."""
        self._mute |= set(self._open)

    def cut(self) -> None:
        """Closes the present connections."""
        while self._open:
            _shut(self._open.pop())

    def close(self) -> None:
        """Ends all."""
        _shut(self._server)
        self._server.close()
        self.flows.set()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                return
            for end in (near, far):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._open += [near, far]
            threading.Thread(target=self._carry, args=(near, far), daemon=True).start()

    def _carry(self, near: socket.socket, far: socket.socket) -> None:
        back = threading.Thread(target=self._pump, args=(far, near), daemon=True)
        back.start()
        self._pump(near, far)
        back.join()  # closed while it is read, its number would be the next connection's
        for end in (near, far):
            end.close()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):  # it was cut
            while data := source.recv(65536):
                self.flows.wait()
                if not self._swallows(source):
                    sink.sendall(data)
        if not self._swallows(source):
            for end in (source, sink):
                _shut(end)

    def _swallows(self, source: socket.socket) -> bool:
        return self.deaf or source in self._mute


def _shut(end: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it was shut already
        end.shutdown(socket.SHUT_RDWR)
