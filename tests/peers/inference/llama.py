"""The server of llama.cpp, as its project has it: `llama.py FOLDER PORT KEY`. Says its port, or ends."""
import os
import signal
import sys

import xllamacpp
from models import write_chat

folder, port, key = sys.argv[1:]
say = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
path = folder + "/chat.gguf"
if not os.path.exists(path):
    write_chat(path)
params = xllamacpp.CommonParams()
params.model.path = path
params.n_ctx = 65536
params.n_parallel = 2
params.n_gpu_layers = 0
params.cpuparams.n_threads = 1
params.warmup = False
params.embedding = True
# The mean would be that of the tokens which it did not know from the text before.
params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_LAST
params.hostnames = ["127.0.0.1"]
params.port = int(port)
params.api_keys = [key]
params.endpoint_metrics = True
server = xllamacpp.Server(params)
print(server.listening_address.rsplit(":", 1)[1], file=say, flush=True)
while True:
    signal.pause()
