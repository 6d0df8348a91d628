"""The engine of mistral.rs, behind a small front of HTTP, for its own server is in no package of Python:
`mistral.py FOLDER PORT KEY`. What the engine makes of a request is handed on as it is. With a certificate in
the folder there is TLS. Says its port, or ends."""
import json
import os
import ssl
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import mistralrs
from models import write_chat, write_vectors

folder, port, key = sys.argv[1:]
say = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
if not os.path.exists(folder + "/vectors"):
    write_chat(folder + "/chat.gguf")
    write_vectors(folder + "/vectors")
chat = mistralrs.Runner(
    which=mistralrs.Which.GGUF(quantized_model_id=folder, quantized_filename="chat.gguf"),
    no_paged_attn=True,
)
arch = mistralrs.EmbeddingArchitecture.Qwen3Embedding
vectors = mistralrs.Runner(which=mistralrs.Which.Embedding(model_id=folder + "/vectors", arch=arch))

# Its handles are for one at a time; what they begin goes on side by side.
asking = threading.Lock()


def usage(used):
    return used and {
        "prompt_tokens": used.prompt_tokens,
        "completion_tokens": used.completion_tokens,
        "total_tokens": used.total_tokens,
    }


class Front(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, body):
        body = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.headers.get("authorization") != "Bearer " + key:
            return self.answer(401, {"message": "wrong key"})
        if self.path == "/v1/embeddings":
            with asking:
                made = vectors.send_embedding_request(mistralrs.EmbeddingRequest(input=asked["input"]))
            data = [{"object": "embedding", "index": at, "embedding": one} for at, one in enumerate(made)]
            tokens = sum(len(text) for text in asked["input"])
            return self.answer(200, {"object": "list", "data": data, "usage": {"prompt_tokens": tokens}})
        if self.path != "/v1/chat/completions":
            return self.answer(404, {"message": "not here"})
        more = {}
        if "response_format" in asked:
            schema = asked["response_format"]["json_schema"]["schema"]
            more = {"grammar_type": "json_schema", "grammar": json.dumps(schema)}
        request = mistralrs.ChatCompletionRequest(
            model=asked["model"], messages=asked["messages"], max_tokens=asked["max_tokens"],
            temperature=asked.get("temperature"), top_p=asked.get("top_p"), stop_seqs=asked.get("stop"),
            stream=True, **more,
        )
        try:
            with asking:
                chunks = chat.send_chat_completion_request(request)
            first = next(chunks)
        except ValueError as error:
            return self.answer(422, {"message": str(error)})
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        self.event(first)
        for chunk in chunks:
            self.event(chunk)
        self.chunk(b"data: [DONE]\n\n")
        self.chunk(b"")

    def event(self, chunk):
        choices = [
            {"index": one.index, "delta": {"role": one.delta.role, "content": one.delta.content},
             "finish_reason": one.finish_reason}
            for one in chunk.choices
        ]
        data = {"id": chunk.id, "object": chunk.object, "choices": choices, "usage": usage(chunk.usage)}
        self.chunk(b"data: " + json.dumps(data).encode() + b"\n\n")

    def chunk(self, data):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        # Who asked went away.
        pass


server = Server(("127.0.0.1", int(port)), Front)
if os.path.exists(folder + "/certificate.pem"):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder + "/certificate.pem", folder + "/key.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_address[1], file=say, flush=True)
server.serve_forever()
