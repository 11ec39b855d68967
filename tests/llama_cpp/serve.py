"""Starts llama.cpp's own server; run by the Python of the environment `llama-cpp`.

serve.py FILE.gguf PORT CONTEXT
"""

from __future__ import annotations

import sys
import threading

import xllamacpp


def main(file: str, port: str, context: str) -> None:
    wanted = xllamacpp.CommonParams()
    wanted.model.path = file
    wanted.model_alias = {"m"}
    wanted.hostnames = ["127.0.0.1"]
    wanted.port = int(port)
    wanted.n_ctx = int(context)
    wanted.n_parallel = 2
    wanted.cpuparams.n_threads = 2
    wanted.use_jinja = True
    _server = xllamacpp.Server(wanted)  # it ends with this object
    threading.Event().wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
