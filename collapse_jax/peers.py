"""The connections between the processes of a run: the end of one is noticed at once.

JAX's client of the coordination service aborts its process when the service is out of reach, and is slow to notice
that another process is gone. So the service listens on loopback alone and its traffic passes through here: process 0
opens a `door` where the others were told to find it, and each of them reaches it through a `passage` on its own
loopback. Beside the traffic each holds a lifeline to process 0, which carries nothing until somebody is lost: the
kernel closes it when a process dies, and gives it up within `SILENCE_S` when a host does.
"""

import contextlib
import ipaddress
import socket
import threading
import time
from collections.abc import Callable, Iterator

from collapse_jax.config import BadInput

SILENCE_S = 30  # after which a host that answers nothing is dead
HELLO_S = 10.0  # for a newcomer to say who it is
GREETING = "collapse_jax"
Address = tuple[str, int]


def parsed(address: str) -> Address:
    """Host and port of `HOST:PORT`. Raises `BadInput`."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise BadInput(f"the coordinator's address {address!r} is not HOST:PORT")
    return host.strip("[]"), int(port)


def listening_at(address: Address) -> Address:
    """Where to listen to be found at an address: there if it is one of this host's own, else on all interfaces.

    A name may stand for another address than the others see, so only numbers and localhost are taken at their word.
    """
    host, _ = address
    with contextlib.suppress(ValueError, OSError):
        if host != "localhost":
            ipaddress.ip_address(host)
        _listen((host, 0)).close()
        return address
    return "", address[1]


class Door:
    """Process 0's side: leads those who greet to the service at `inside`; `lost(k)` when process k's lifeline ends."""

    def __init__(self, where: Address, inside: Address, lost: Callable[[int], None]):
        self.inside, self.lost = inside, lost
        self.lifelines: list[socket.socket] = []
        self.server = _listen(where)
        _start(self._welcome)

    def _welcome(self) -> None:
        for guest in _guests(self.server):
            _start(self._lead, guest)

    def _lead(self, guest: socket.socket) -> None:
        try:
            guest.settimeout(HELLO_S)
            greeting, kind, number = _line(guest).split()
            guest.settimeout(None)
            if greeting != GREETING:
                raise ValueError(greeting)
            _keep(guest)
            if kind == "traffic":
                _join(guest, socket.create_connection(self.inside))
                return
            self.lifelines.append(guest)
        except (OSError, ValueError):  # somebody else's program
            guest.close()
            return
        with guest:
            _line(guest)
        self.lost(int(number))

    def tell(self, lost: int) -> None:
        """Tell the others who was lost."""
        for lifeline in self.lifelines:
            with contextlib.suppress(OSError):
                lifeline.sendall(f"{lost}\n".encode())


class Passage:
    """The side of another process: an address on its own loopback from which traffic reaches the door."""

    def __init__(self, door: Address, number: int):
        self.door, self.number = door, number
        self.server = _listen(("127.0.0.1", 0))
        self.address: Address = self.server.getsockname()[:2]
        _start(self._lead)

    def _connect(self, kind: str) -> socket.socket:
        link = socket.create_connection(self.door, timeout=HELLO_S)
        link.settimeout(None)
        _keep(link)
        link.sendall(f"{GREETING} {kind} {self.number}\n".encode())
        return link

    def _lead(self) -> None:
        for client in _guests(self.server):
            try:
                link = self._connect("traffic")
            except OSError:  # not open yet: the client tries again
                client.close()
            else:  # what has ended there ends here later, for the lifeline to speak first
                _join(client, link, patience_s=HELLO_S)

    def hold(self, lost: Callable[[int], None]) -> None:
        """Hold a lifeline; `lost(k)` when it ends because process k is gone."""
        lifeline = self._connect("lifeline")

        def wait() -> None:
            with lifeline:
                number = int(_line(lifeline) or 0)
            lost(number)

        _start(wait)


def _listen(where: Address) -> socket.socket:
    host, port = where
    if not host and socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=1024)


def _guests(server: socket.socket) -> Iterator[socket.socket]:
    """Those who come, until the server is shut down."""
    with server, contextlib.suppress(OSError):
        while True:
            yield server.accept()[0]


def free_port() -> int:
    with _listen(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def _keep(link: socket.socket) -> None:
    """Let the kernel find out whether the other host still answers."""
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    options = {"TCP_KEEPIDLE": SILENCE_S // 3, "TCP_KEEPINTVL": SILENCE_S // 6, "TCP_KEEPCNT": 4}
    for name, value in (options | {"TCP_USER_TIMEOUT": 1000 * SILENCE_S}).items():
        if hasattr(socket, name):  # Linux has them all
            link.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _join(near: socket.socket, far: socket.socket, patience_s: float = 0.0) -> None:
    """Pass on what either says until one ends; then, the far end `patience_s` later, so does the other."""

    def passing(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
        if source is far:
            time.sleep(patience_s)
        for link in (near, far):
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)
            link.close()

    _start(passing, near, far)
    _start(passing, far, near)


def _line(link: socket.socket) -> str:
    """What is said up to the end of a line, "" when the connection ends."""
    said = b""
    with contextlib.suppress(ConnectionError, TimeoutError):
        while not said.endswith(b"\n") and len(said) < 100 and (byte := link.recv(1)):
            said += byte
    return said.decode("ascii", "replace").strip()


def _start(target: Callable[..., None], *arguments: object) -> None:
    threading.Thread(target=target, args=arguments, daemon=True, name="peers").start()
