"""A gallery: images go in and come out as streams, whatever they are kept in."""

from html import escape
from urllib.parse import quote, unquote

from componentize_py_types import Err, Ok
from wit_world import exports
from wit_world.imports import blobstore
from wit_world.imports.container import Container
from wit_world.imports.streams import InputStream, OutputStream, StreamError_Closed
from wit_world.imports.wasi_blobstore_types import IncomingValue, OutgoingValue
from wit_world.imports.wasi_http_types import (
    Fields,
    IncomingRequest,
    Method_Delete,
    Method_Get,
    Method_Post,
    Method_Put,
    OutgoingBody,
    OutgoingResponse,
    ResponseOutparam,
)

CONTAINER = "gallery"
PIECE_BYTES = 64 * 1024
ALL = 2**64 - 1
NAMES_MAX = 1000
KINDS = {"png": "image/png", "jpg": "image/jpeg", "jpeg": "image/jpeg", "gif": "image/gif", "webp": "image/webp"}


class IncomingHandler(exports.IncomingHandler):
    def handle(self, request: IncomingRequest, out: ResponseOutparam) -> None:
        # Behind `/gallery/...`: what follows is the name of an image.
        path = (request.path_with_query() or "/").partition("?")[0]
        name = unquote(path.removeprefix("/gallery").strip("/"))
        kind = KINDS.get(name.rpartition(".")[2].lower())
        method = request.method()
        try:
            images = blobstore.create_container(CONTAINER)
            if not name and isinstance(method, Method_Get):
                answer(out, 200, page(images), "text/html; charset=utf-8")
            elif kind is None:
                answer(out, 404, f"images have names that end in one of {', '.join(KINDS)}\n")
            elif isinstance(method, (Method_Post, Method_Put)):
                store(images, name, request)
                answer(out, 201, f"{name} is there\n")
            elif isinstance(method, Method_Delete):
                images.delete_object(name)
                answer(out, 200, f"{name} is gone\n")
            elif not images.has_object(name):
                answer(out, 404, f"no image {name}\n")
            else:
                show(images, name, kind, out)
        except Err as error:
            # In words: no store bound, no space left, the server of objects is down.
            answer(out, 503, f"{error.value}\n")


def page(images: Container) -> str:
    """The newest state of the container, as far as a page shows it."""
    names, _ = images.list_objects().read_stream_object_names(NAMES_MAX)
    shown = "".join(f'<figure><img src="/gallery/{quote(name, "")}"><figcaption>{escape(name)}</figcaption></figure>\n' for name in names)
    return f"<!doctype html><title>Gallery</title>\n{shown or '<p>PUT an image to /gallery/NAME.png</p>'}\n"


def store(images: Container, name: str, request: IncomingRequest) -> None:
    """The body goes into the store as it comes. An image is seen once it is whole: with `finish`."""
    value = OutgoingValue.new_outgoing_value()
    images.write_data(name, value)
    body = request.consume()
    with body.stream() as source, value.outgoing_value_write_body() as sink:
        move(source, sink)
    OutgoingValue.finish(value)


def show(images: Container, name: str, kind: str, out: ResponseOutparam) -> None:
    value = images.get_data(name, 0, ALL)
    size = value.size()
    with IncomingValue.incoming_value_consume_async(value) as source:
        headers = [("content-type", kind.encode()), ("content-length", str(size).encode())]
        body = start(out, 200, headers)
        with body.write() as sink:
            move(source, sink)
        OutgoingBody.finish(body, None)


def move(source: InputStream, sink: OutputStream) -> None:
    while True:
        try:
            sink.blocking_splice(source, PIECE_BYTES)
        except Err as end:
            if isinstance(end.value, StreamError_Closed):
                return
            raise


def answer(out: ResponseOutparam, status: int, text: str, kind: str = "text/plain; charset=utf-8") -> None:
    body = start(out, status, [("content-type", kind.encode())])
    with body.write() as sink:
        rest = text.encode()
        while rest:
            sink.blocking_write_and_flush(rest[:4096])
            rest = rest[4096:]
    OutgoingBody.finish(body, None)


def start(out: ResponseOutparam, status: int, headers: list[tuple[str, bytes]]) -> OutgoingBody:
    response = OutgoingResponse(Fields.from_list(headers))
    response.set_status_code(status)
    body = response.body()
    ResponseOutparam.set(out, Ok(response))
    return body
