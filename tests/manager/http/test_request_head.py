"""The strict reader of request heads."""

from __future__ import annotations

import contextlib

from hypothesis import given

from kruise_agents.manager.http.request_head import HeadRefusedError, RequestHead, read_head
from support.mutations import broken, times

HEADS = [
    b"POST /kruise/sb1/3000/a?b HTTP/1.1\r\nHost: d.example\r\nContent-Length: 3\r\nX-A: 1\r\n\r\n",
    b"GET http://d.example/x HTTP/1.1\r\nHost: d.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    b"PUT / HTTP/1.0\r\nHost: d.example\r\nE2b-Sandbox-Id: i1\r\nTransfer-Encoding: chunked\r\n\r\n",
]


def written(head: RequestHead) -> bytes:
    lines = [b"%b %b HTTP/%b" % (head.method, head.target, head.version), *(b"%b: %b" % pair for pair in head.headers)]
    return b"\r\n".join([*lines, b"", b""])


@times(10)
@given(broken(HEADS, [b"", b"\r\n", b"\n", b":", b" ", b"\t", b"\0", b"//", b"?", b"#", b"Host: e\r\n"]))
def test_a_broken_head_is_refused_or_means_the_same_when_it_is_written_anew(data: bytes) -> None:
    with contextlib.suppress(HeadRefusedError):
        head = read_head(data)
        assert read_head(written(head)) == head
