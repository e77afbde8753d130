"""An ASGI application with a lifespan, around Django's."""

import asyncio
import os
import sys
import time

from asgiref.sync import sync_to_async
from django.core.asgi import get_asgi_application
from guinea_faults import taken

django = get_asgi_application()


async def application(scope, receive, send):
    if scope["type"] == "websocket" and scope["path"] == "/shared-thread":
        await wait_in_the_shared_thread(receive, send)
        return
    if scope["type"] == "websocket" and scope["path"] == "/refused":
        await django(scope, receive, send)
        return
    if scope["type"] == "http" and scope["path"] == "/answered-and-goes-on":
        await answer_and_go_on(send)
        return
    if scope["type"] == "websocket":
        await echo(receive, send)
        return
    if scope["type"] != "lifespan":
        await django(scope, receive, send)
        return
    await receive()
    match taken("lifespan"):
        case "says-failed":
            await send({"type": "lifespan.startup.failed", "message": "the pool is empty"})
            return
        case "peeks":  # as a wrapper that looks at the first message and passes the scope on
            await django(scope, receive, send)
        case "raises":
            raise RuntimeError("the pool is empty")
        case "hangs":
            await asyncio.sleep(3600)
        case "exits":
            sys.exit(9)
    await send({"type": "lifespan.startup.complete"})
    await receive()
    print("lifespan ended", file=sys.stderr, flush=True)
    await send({"type": "lifespan.shutdown.complete"})


async def answer_and_go_on(send):
    """Answer, then work on for a while, as a background task of Starlette does."""
    headers = [(b"content-length", b"2"), (b"x-worker-pid", b"%d" % os.getpid())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"ok"})
    await asyncio.sleep(60)


async def wait_in_the_shared_thread(receive, send):
    """Sleep in asgiref's thread, as a consumer of Channels that asks a database does."""
    await receive()
    await send({"type": "websocket.accept"})
    await sync_to_async(time.sleep)(13)
    await send({"type": "websocket.close"})


async def echo(receive, send):
    """Answer each message with itself, until the other side goes."""
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})
