"""An application that redirects `/items` to `/items/`, with a complete address, as FastAPI does; runs in a sandbox."""

import sys

import uvicorn
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route


async def items(request):
    return PlainTextResponse(f"items over {request.url.scheme}")


app = Starlette(routes=[Route("/items/", items)])
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
