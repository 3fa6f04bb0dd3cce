"""Hostile mirrors on the loopback: wrong lengths, loops, trickles, garbage, endless bodies."""

from __future__ import annotations

import gzip
import json
import random
import socket
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

from making import Case, gzip_of_zeros

HDF5 = b"\x89HDF\r\n\x1a\n" + bytes(3000)
OK = b"HTTP/1.1 200 OK\r\nConnection: close\r\n"


def _told(*heads: bytes, body: bytes = HDF5, status: bytes = OK) -> Callable[[socket.socket], None]:
    def answer(peer: socket.socket) -> None:
        peer.sendall(status + b"".join(head + b"\r\n" for head in heads) + b"\r\n" + body)

    return answer


def _trickle(peer: socket.socket) -> None:
    peer.sendall(OK + b"Content-Length: 3008\r\n\r\n")
    for byte in HDF5:
        peer.sendall(bytes([byte]))
        time.sleep(0.5)


def _endless(head: bytes) -> Callable[[socket.socket], None]:
    def answer(peer: socket.socket) -> None:
        peer.sendall(OK + head + b"\r\n" + HDF5)
        while True:
            peer.sendall(bytes(1 << 20))

    return answer


def _moved(to: bytes, *heads: bytes, body: bytes = b"") -> Callable[[socket.socket], None]:
    status = b"HTTP/1.1 302 Moved\r\nConnection: close\r\nLocation: " + to + b"\r\n"
    return _told(*heads, status=status, body=body)


def _endless_moved(peer: socket.socket) -> None:
    peer.sendall(b"HTTP/1.1 302 Moved\r\nLocation: /whole\r\nContent-Encoding: gzip\r\n\r\n")
    while True:
        peer.sendall(gzip_of_zeros(100))


def _garbage(peer: socket.socket) -> None:
    peer.sendall(random.Random(0).randbytes(5000))


def _long_head(peer: socket.socket) -> None:
    peer.sendall(OK + b"X: " + b"y" * 200_000 + b"\r\n\r\n")


def _many_heads(peer: socket.socket) -> None:
    peer.sendall(OK + b"X: y\r\n" * 100_000 + b"\r\n")


PAGE = b"<!DOCTYPE html><html><body>Sign in</body></html>"
ANSWERS: dict[str, Callable[[socket.socket], None]] = {
    "whole": _told(b"Content-Length: 3008"),
    "unsized": _told(),
    "longer": _told(b"Content-Length: 9999"),
    "shorter": _told(b"Content-Length: 100"),
    "no content": _told(b"Content-Length: 0", body=b""),
    "length below zero": _told(b"Content-Length: -5"),
    "length of words": _told(b"Content-Length: many"),
    "length of 5000 digits": _told(b"Content-Length: " + b"9" * 5000),
    "length of an exabyte": _told(b"Content-Length: 1000000000000000000"),
    "two lengths": _told(b"Content-Length: 3008", b"Content-Length: 7"),
    "HTML": _told(b"Content-Type: text/html", body=PAGE),
    "gzip of a bomb": lambda peer: _told(b"Content-Encoding: gzip", body=gzip_of_zeros(2000))(peer),
    "broken chunks": _told(b"Transfer-Encoding: chunked", body=b"zz\r\nabc\r\n"),
    "huge chunk": _told(b"Transfer-Encoding: chunked", body=b"FFFFFFFFFFFFFFFFFF\r\nabc"),
    "cut chunk": _told(b"Transfer-Encoding: chunked", body=b"10\r\nabc"),
    "trickle": _trickle,
    "silence": lambda peer: time.sleep(5),
    "closed at once": lambda peer: None,
    "endless": _endless(b""),
    "endless, sized": _endless(b"Content-Length: 999999999999\r\n"),
    "loop": _moved(b"/loop"),
    "moved to a file": _moved(b"file:///etc/passwd"),
    "moved to nowhere": _moved(b"http://[::1"),
    "moved to garbage": _moved(b"http://\xff\xfe\x80/"),
    "moved to a bad port": _moved(b"http://127.0.0.1:99999999/"),
    "moved to nothing": _moved(b""),
    "moved with an endless body": _endless_moved,
    "status with colours": _told(status=b"HTTP/1.1 404 \x1b[2J\x07evil\r\n"),
    "status 999": _told(status=b"HTTP/1.1 999 ?\r\n"),
    "status of words": _told(status=b"HTTP/9.9 what ?\r\n"),
    "garbage": _garbage,
    "long head": _long_head,
    "many heads": _many_heads,
    "gzip instead": lambda peer: _told(body=gzip.compress(HDF5))(peer),
}


def _serve(server: socket.socket) -> None:
    while True:
        peer, _ = server.accept()
        threading.Thread(target=_answer, args=(peer,), daemon=True).start()


def _answer(peer: socket.socket) -> None:
    try:
        peer.settimeout(20)
        request = peer.recv(1 << 16)
        name = request.split(b" ")[1].decode().strip("/").replace("%20", " ").replace("%2C", ",")
        ANSWERS[name](peer)
    except (OSError, LookupError):
        pass
    finally:
        peer.close()


@cache
def port() -> int:
    """Of the server, which starts with its first use and ends with the process."""
    server = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_serve, args=(server,), daemon=True).start()
    return server.getsockname()[1]


def _case(name: str) -> Case:
    def case(folder: Path, rng: random.Random) -> Path:
        path = folder / "mirror.json"
        url = f"http://127.0.0.1:{port()}/{name.replace(' ', '%20')}"
        path.write_text(json.dumps({"url": url, "there": rng.random() < 0.3}))
        return path

    return case


CASES: dict[str, Case] = {name: _case(name) for name in ANSWERS}
