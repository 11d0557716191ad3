"""A page with a WebSocket, a redirect and a cookie, as a development server has them. usage: page.py PORT REPORTS"""

import asyncio
import http
import sys

from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

PAGE = """<!doctype html><script type=module>
const login = await fetch('/login')
const socket = new WebSocket(`ws://${location.host}/ws`)
socket.onmessage = (message) => fetch('REPORTS', { method: 'POST', mode: 'no-cors', body: JSON.stringify({
  name: 'page', socket: message.data, landed: login.url.replace(location.origin, ''), cookie: document.cookie }) })
</script>""".replace("REPORTS", sys.argv[2])


def answer(connection: ServerConnection, request: Request) -> Response | None:
    if request.path == "/ws":
        return None
    found = connection.respond(http.HTTPStatus.OK, PAGE if request.path == "/" else "in\n")
    if request.path == "/":
        del found.headers["Content-Type"]
        found.headers["Content-Type"] = "text/html"
    if request.path == "/login":
        found = connection.respond(http.HTTPStatus.FOUND, "")
        found.headers["Location"] = f"http://{request.headers['Host']}/in"
        found.headers["Set-Cookie"] = "who=me; Path=/"
    return found


async def greet(connection: ServerConnection) -> None:
    assert connection.request is not None
    headers = connection.request.headers
    own = headers["Origin"].partition("://")[2] == headers["Host"]
    await connection.send("from my own page" if own else f"from {headers['Origin']}, which is not {headers['Host']}")


async def main() -> None:
    async with serve(greet, "127.0.0.1", int(sys.argv[1]), process_request=answer):
        await asyncio.get_running_loop().create_future()


asyncio.run(main())
