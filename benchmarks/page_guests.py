"""Who comes to the page in `benchmarks.viewer_cost`: viewers and attackers, in a process of their own."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection

from wsproto import ConnectionType, WSConnection
from wsproto.events import BytesMessage, Request, TextMessage

WIDTH = 1280  # of the picture that viewers ask for: the largest there is


def entered(link: str) -> dict[str, str]:
    """Host, prefix and cookie of a page, as a browser gets them."""
    found = re.fullmatch(r"http://([^/]+)/#(.+)", link)
    assert found
    connection = HTTPConnection(found[1])
    headers = {"Content-Type": "application/json", "X-SharpCam": "1"}
    connection.request("POST", "/enter", json.dumps({"code": found[2]}), headers)
    answer = connection.getresponse()
    cookie = answer.headers["set-cookie"].partition(";")[0]
    return {"host": found[1], "path": json.loads(answer.read())["path"], "cookie": cookie}


def look(page: Mapping[str, str], seconds: float) -> float:
    """A viewer: asks for picture after picture; gives how many came a second."""
    protocol, count, end = WSConnection(ConnectionType.CLIENT), 0, time.monotonic() + seconds
    headers = [(b"Origin", f"http://{page['host']}".encode()), (b"Cookie", page["cookie"].encode())]
    host, _, port = page["host"].partition(":")
    with socket.create_connection((host, int(port))) as connection:
        target = f"{page['path']}live"
        connection.sendall(protocol.send(Request(host=page["host"], target=target, extra_headers=headers)))
        asked = False
        while time.monotonic() < end:
            protocol.receive_data(connection.recv(1 << 16))
            for event in protocol.events():
                if isinstance(event, BytesMessage) and event.message_finished:
                    count, asked = count + 1, False
                elif isinstance(event, TextMessage) and not event.message_finished:
                    continue
                if not asked:
                    asked = True
                    connection.sendall(protocol.send(TextMessage(data=f"look {WIDTH}")))
    return count / seconds


def attack(page: Mapping[str, str], seconds: float) -> float:
    """Another program: names that are not the page's, no token, uploads that are too large, silent connections."""
    end, count = time.monotonic() + seconds, 0
    host, _, port = page["host"].partition(":")
    path = page["path"]
    upload = f"POST {path}compare HTTP/1.1\r\nHost: {page['host']}\r\nContent-Length: {100 << 20}\r\n\r\n"
    requests = [
        b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        f"GET {path}about HTTP/1.1\r\nHost: {page['host']}\r\n\r\n".encode(),
        upload.encode() + bytes(1 << 16),
        b"",
    ]
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=0.05) as one:
            one.sendall(requests[count % len(requests)])
            one.recv(1 << 12)
        count += 1
    return count / seconds


def main() -> None:
    """PAGE SECONDS look|attack COUNT: says that it begins, and at the end how often each was served a second."""
    page, seconds, count = json.loads(sys.argv[1]), float(sys.argv[2]), int(sys.argv[4])
    print("begun", flush=True)
    with ThreadPoolExecutor(count) as guests:
        work = {"look": look, "attack": attack}[sys.argv[3]]
        served = list(guests.map(lambda _: work(page, seconds), range(count)))
    print(sum(served) / count)


if __name__ == "__main__":
    main()
