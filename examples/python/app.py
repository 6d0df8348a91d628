"""Counts the words of what is posted to it, as a handler of `wasi:http/proxy`."""

import json

from componentize_py_types import Err, Ok
from wit_world import exports
from wit_world.imports.streams import StreamError_Closed
from wit_world.imports.types import (
    Fields,
    IncomingBody,
    IncomingRequest,
    Method_Post,
    OutgoingBody,
    OutgoingResponse,
    ResponseOutparam,
)

CHUNK_BYTES = 64 * 1024


class IncomingHandler(exports.IncomingHandler):
    def handle(self, request: IncomingRequest, response_out: ResponseOutparam) -> None:
        path = (request.path_with_query() or "/").partition("?")[0]
        if isinstance(request.method(), Method_Post):
            words = len(read(request.consume()).split())
            answer(response_out, "application/json", json.dumps({"words": words}))
        else:
            answer(response_out, "text/plain", f"Hello from Python at {path}\n")


def read(body: IncomingBody) -> bytes:
    """The whole body; it counts against `memory_max_mb`."""
    chunks = []
    with body.stream() as stream:
        while True:
            try:
                chunks.append(stream.blocking_read(CHUNK_BYTES))
            except Err as end:
                if isinstance(end.value, StreamError_Closed):
                    return b"".join(chunks)
                raise


def answer(response_out: ResponseOutparam, content_type: str, text: str) -> None:
    response = OutgoingResponse(Fields.from_list([("content-type", content_type.encode())]))
    body = response.body()
    ResponseOutparam.set(response_out, Ok(response))
    with body.write() as stream:
        stream.blocking_write_and_flush(text.encode())
    OutgoingBody.finish(body, None)
