"""The process that holds the engine: it loads one model, serves it on a socket of its own, and ends with its parent.

Run as a file, by local_engine. It reads one line of JSON (the order) and answers with one; then its standard input
stays open for as long as it is wanted. A process of its own, since the engine keeps Python's lock while it loads (from
1.4 s for half a gigabyte in the page cache to as long as a slow disk takes: longer than a worker may be silent), prints
where it likes, and takes the process it is in with it when the memory runs out.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn


def main() -> NoReturn:
    """Serve the model that the order on standard input names, until that input is closed."""
    order = json.loads(sys.stdin.readline())
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the engine prints on both; what it says is its parent's to log
    os.nice(order["nice"])
    try:
        server = _serve(order)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer; the engine's own words are on stderr
        print(json.dumps({"error": str(error)}), file=answers, flush=True)
    else:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # some versions of the engine take both
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        print(json.dumps({"address": server.listening_address}), file=answers, flush=True)
        sys.stdin.read()
    shutil.rmtree(Path(order["socket"]).parent, ignore_errors=True)
    os._exit(0)  # an answer under way is of no use to anybody now; the engine's own end would wait for it


def _serve(order: dict[str, Any]) -> Any:
    # Here, so that a failure to load it is an answer too; it comes without types.
    import xllamacpp  # type: ignore[import-untyped]  # noqa: PLC0415 # pyright: ignore[reportMissingTypeStubs]

    engine: Any = xllamacpp
    params = engine.CommonParams()
    params.model.path = order["path"]
    params.n_ctx = order["context"]
    params.n_parallel = 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = order["threads"]
    # Small batches: an answer that is given up stops after the batch under way, and larger ones gain 5 percent.
    params.n_batch = params.n_ubatch = order["batch"]
    params.cache_ram_mib = order["cache"]
    # A socket in a folder of our own instead of a port; and a key, should the folder ever be somebody else's too.
    params.hostnames = [order["socket"]]
    params.api_keys = [order["key"]]
    params.endpoint_slots = params.endpoint_props = params.endpoint_metrics = False
    params.ui = False
    params.n_threads_http = order["connections"]
    params.fit_params = False
    params.offline = True
    params.verbosity = order["verbosity"]
    return engine.Server(params)


if __name__ == "__main__":
    main()
