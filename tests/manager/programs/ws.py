"""A WebSocket server. usage: ws.py PORT"""

import asyncio
import http
import sys

from websockets.asyncio.server import serve


def check(connection, request):
    if request.path == "/forbidden":
        return connection.respond(http.HTTPStatus.FORBIDDEN, "not you\n")
    if request.path == "/redirect":
        answer = connection.respond(http.HTTPStatus.FOUND, "")
        answer.headers["Location"] = "/elsewhere"
        return answer
    if request.path == "/ready":
        return connection.respond(http.HTTPStatus.OK, "ready\n")
    return None


def mark(connection, request, response):
    response.headers["X-App"] = "mine"
    return response


async def echo(connection):
    request = connection.request
    await connection.send(f"{request.path} {request.headers.get('X-Mark')} {connection.subprotocol}")
    async for message in connection:
        if message == "close":
            await connection.close(4321, "as asked")
            return
        await connection.send(message)


async def main():
    options = {"process_request": check, "process_response": mark, "subprotocols": ["chat", "other"], "max_size": None}
    async with serve(echo, "127.0.0.1", int(sys.argv[1]), **options):  # type: ignore[arg-type]  # options of all kinds
        await asyncio.get_running_loop().create_future()


asyncio.run(main())
