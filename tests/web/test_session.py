from __future__ import annotations

import os
import re
import socket
import sys
from pathlib import Path

import pytest

from sharpcam.web.session import LINK_S, Session, is_other_user

HEADER = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"


def test_a_link_has_its_time() -> None:
    now = [100.0]
    session = Session(8000, clock=lambda: now[0])
    code = session.link().partition("#")[2]
    now[0] += LINK_S - 0.1
    assert session.enter(code)
    code = session.link().partition("#")[2]
    now[0] += LINK_S
    assert not session.enter(code)
    assert not session.enter("")


def test_every_start_has_secrets_of_its_own() -> None:
    sessions = [Session(8000) for _ in range(10)]
    assert len({s.token for s in sessions}) == len({s.prefix for s in sessions}) == 10
    assert all(re.fullmatch(r"/[\w-]{22}", s.prefix) for s in sessions)
    assert all(re.fullmatch(r"[\w-]{43}", s.token) for s in sessions)
    assert sessions[0].knows(sessions[0].token)
    assert not sessions[0].knows(sessions[1].token)
    assert not sessions[0].knows("\udcff")


@pytest.mark.parametrize(("uid", "other"), [(0, False), (1, True)])
def test_whose_connection_it_is(tmp_path: Path, uid: int, other: bool) -> None:
    if not hasattr(os, "getuid"):
        pytest.skip("no user ids here")
    uid = os.getuid() + uid
    lines = [
        f"0: 0100007F:1F40 0100007F:C000 01 00000000:00000000 00:00000000 00000000 {uid + 7} 0 1",  # our end
        f"1: 0100007F:C000 0100007F:1F41 01 00000000:00000000 00:00000000 00000000 {uid + 7} 0 2",
        f"2: 0100007F:C000 0100007F:1F40 01 00000000:00000000 00:00000000 00000000 {uid} 0 3",
    ]
    table = tmp_path / "tcp"
    table.write_text(HEADER + "\n".join(lines) + "\n")
    assert is_other_user(("127.0.0.1", 0xC000), 8000, [table]) is other


def test_where_nothing_tells(tmp_path: Path) -> None:
    table = tmp_path / "tcp"
    assert not is_other_user(("127.0.0.1", 5), 8000, [table])
    table.write_text(HEADER + "nonsense\n")
    assert not is_other_user(("127.0.0.1", 5), 8000, [table])
    assert not is_other_user(("::1", 5), 8000, [table])


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_the_systems_own_table(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            assert not is_other_user(client.getsockname(), port)
            uid = os.getuid()
            monkeypatch.setattr(os, "getuid", lambda: uid + 1)
            assert is_other_user(client.getsockname(), port)


@pytest.mark.skipif(sys.platform != "linux" or not socket.has_ipv6, reason="needs /proc and IPv6")
def test_an_ipv6_socket_hides_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server sees 127.0.0.1, but the system lists the connection elsewhere."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_INET6) as client:
        port = server.getsockname()[1]
        try:
            client.connect(("::ffff:127.0.0.1", port))
        except OSError:
            pytest.skip("no IPv6 here")
        accepted, seen = server.accept()
        with accepted:
            assert seen == ("127.0.0.1", client.getsockname()[1])
            assert not is_other_user(seen, port)
            uid = os.getuid()
            monkeypatch.setattr(os, "getuid", lambda: uid + 1)
            assert is_other_user(seen, port)
