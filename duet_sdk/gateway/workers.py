"""Several processes that serve one address: they are started, replaced when they die, and ended together."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Final

from duet_sdk.errors import DuetError
from duet_sdk.gateway.making import Address, Making, Source, uvicorn_config
from duet_sdk.gateway.reloading import Reloading
from duet_sdk.gateway.server import AT_ONCE, DrainingServer
from duet_sdk.gateway.worker_metrics import WorkerMetrics

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from duet_sdk.settings import Settings

_log = logging.getLogger(__name__)
_WATCHED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, AT_ONCE)
_PAUSE_S: Final = 1.0
"""Seconds that a worker's place stays empty when it died right after its start: what ends them all at once must not
take a core."""


class Workers:
    """Forks the workers and waits. This process reads no request, so that none can end it.

    A worker that dies, killed or not, is replaced by one with the last settings that could be used. When this process
    dies, its workers end as if they had been told to.

    Args:
        source: of the settings.
        address: where they are reached.
        settings: the first.
        bound: the socket that all of them take connections from; what waits there outlives each of them.
        around: entered by each of them around its work.
    """

    def __init__(
        self,
        source: Source,
        address: Address,
        settings: Settings,
        bound: socket.socket,
        around: Callable[[], AbstractContextManager[object]],
    ) -> None:
        self._source = source
        self._address = address
        self._settings = settings
        self._bound = bound
        self._around = around
        self._running: dict[int, tuple[int, float]] = {}
        """Process id → the worker's number, and when it was started."""
        self._ending = False

    def run(self) -> int:
        """Serve until told to end; the exit code."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
        self._folder = Path(tempfile.mkdtemp(prefix="duet-serve-"))
        self._alive, self._told = os.pipe()  # workers read the end of this process from it
        try:
            for number in range(self._address.workers):
                self._start(number)
            while self._running:
                self._heed(signal.sigwait(_WATCHED))
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)
            os.close(self._alive)
            os.close(self._told)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return 0

    def _heed(self, number: int) -> None:
        if number == signal.SIGCHLD:
            self._replace_dead()
        elif number == signal.SIGHUP:
            self._reload()
        else:
            self._tell(AT_ONCE if self._ending or number == AT_ONCE else signal.SIGTERM)
            self._ending = True

    def _tell(self, number: int) -> None:
        for process in self._running:
            os.kill(process, number)

    def _reload(self) -> None:
        """Have all workers read the settings anew, if they can be used."""
        try:
            settings = self._source.read()
            Making(self._source, self._address, settings)(None)
        except DuetError as error:
            _log.error("the settings were not reloaded, the ones before still hold: %s", error)
            return
        self._settings = settings
        self._tell(signal.SIGHUP)

    def _replace_dead(self) -> None:
        for process in list(self._running):
            found, status = os.waitpid(process, os.WNOHANG)
            if not found:
                continue
            number, started_s = self._running.pop(process)
            if self._ending:
                continue
            code = os.waitstatus_to_exitcode(status)
            how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
            _log.warning("worker %d (process %d) %s; another one takes its place", number, process, how)
            if time.monotonic() - started_s < _PAUSE_S:
                time.sleep(_PAUSE_S)
            self._start(number)

    def _start(self, number: int) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        process = os.fork()
        if process:
            self._running[process] = (number, time.monotonic())
            return
        code = 1
        try:
            os.close(self._told)
            os.setpgid(0, 0)  # a terminal's Ctrl-C is for the parent, which tells the workers
            self._serve(number)
            code = 0
        except BaseException:  # noqa: BLE001  # whatever it was, the parent's own work must not go on here
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _serve(self, number: int) -> None:
        beside = WorkerMetrics(self._folder, number)
        app = Reloading(Making(self._source, self._address, self._settings, beside))
        config = uvicorn_config(app, host=self._address.host, port=self._address.port)
        with self._around():
            DrainingServer(config, app, parent=self._alive).run(sockets=[self._bound])
