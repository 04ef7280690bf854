"""The connections between processes: what passes, who is let in, and whose end is noticed."""

import contextlib
import queue
import socket
import time

import pytest

from collapse_jax import peers
from collapse_jax.config import BadInput

SOON_S = 20.0


@pytest.fixture
def service():
    """What the coordination service would be: it answers everything in capitals."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            while True:
                try:
                    guest, _ = server.accept()
                except OSError:
                    return
                with guest:
                    while data := guest.recv(100):
                        guest.sendall(data.upper())

        peers._start(answer)
        yield server.getsockname()


@pytest.fixture
def door(service):
    lost = queue.Queue()
    opened = peers.Door(("127.0.0.1", 0), service, lost.put)
    opened.address, opened.gone = opened.server.getsockname(), lost  # type: ignore[attr-defined]
    yield opened
    shut(opened)


def shut(side):
    side.server.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def passages(door):
    made = [peers.Passage(door.address, k) for k in (1, 2, 3)]
    yield made
    for passage in made:
        shut(passage)


def test_traffic_passes_and_strangers_do_not(door, passages):
    with socket.create_connection(passages[0].address, timeout=SOON_S) as client:
        for word in (b"first", b"second"):
            client.sendall(word)
            assert client.recv(100) == word.upper()
    with socket.create_connection(door.address, timeout=SOON_S) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert stranger.recv(100) == b""
    assert door.gone.empty() and not door.lifelines


def test_a_lifeline_that_ends_is_noticed_and_the_others_are_told(door, passages):
    heard = queue.Queue()
    passages[0].hold(heard.put)
    passages[1]._connect("lifeline").close()
    assert door.gone.get(timeout=SOON_S) == 2 and heard.empty()
    door.tell(2)
    assert heard.get(timeout=SOON_S) == 2
    assert door.gone.get(timeout=SOON_S) == 1  # who was told has ended as well


def test_the_end_of_process_0_is_noticed_by_the_others(door, passages):
    heard = queue.Queue()
    passages[2].hold(heard.put)
    while not door.lifelines:
        time.sleep(0.001)
    door.lifelines[0].shutdown(socket.SHUT_RDWR)
    assert heard.get(timeout=SOON_S) == 0


def test_it_listens_where_it_is_told_to():
    assert peers.listening_at(("127.0.0.1", 8482)) == ("127.0.0.1", 8482)
    assert peers.listening_at(("localhost", 8482)) == ("localhost", 8482)
    assert peers.listening_at(("192.0.2.7", 8482)) == ("", 8482)  # reserved for examples: never this host's
    assert peers.listening_at(("a.name", 8482)) == ("", 8482)


@pytest.mark.parametrize("address", ["", "host", ":1", "host:", "host:x", "host:70000"])
def test_addresses_that_are_none(address):
    with pytest.raises(BadInput, match="is not HOST:PORT"):
        peers.parsed(address)


def test_addresses():
    assert peers.parsed("[::1]:80") == ("::1", 80) and peers.parsed("node3:61517") == ("node3", 61517)
