import os

from asgiref.sync import iscoroutinefunction
from django.utils.decorators import sync_and_async_middleware


@sync_and_async_middleware
def WhoAnswers(get_response):
    """Say in a header which process answered."""
    if iscoroutinefunction(get_response):

        async def middleware(request):
            response = await get_response(request)
            response["X-Worker-Pid"] = str(os.getpid())
            return response

    else:

        def middleware(request):
            response = get_response(request)
            response["X-Worker-Pid"] = str(os.getpid())
            return response

    return middleware
