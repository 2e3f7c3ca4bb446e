"""The composition root of the translator: builds its parts and hands them to each other.

Run as `python -m gateway.translator_app <control fd>` by the supervisor, if an upstream says
`translate`. The only process that imports litellm. It serves on a unix socket that nobody else may
open.
"""

import asyncio
import contextlib
import gc
import os
import signal
import socket
import sys
import time

import uvloop
from aiohttp import web

from gateway.control import Ready, TranslatorPlan, frame, receive
from gateway.socket_path import make_socket_folder
from gateway.telemetry.event_log import EventLog
from gateway.translator.library import Library
from gateway.translator.server import Translator

_FLUSH_S = 0.1
_STOP_S = 1.0  # workers have drained: what is left has nobody to read it


class TranslatorApp:
    """The server with its log."""

    def __init__(self, plan: TranslatorPlan) -> None:
        source = f"translator-{os.getpid()}"
        self._log = EventLog(
            sys.stderr.buffer, time.time, form=plan.log_format, level=plan.log_level, source=source
        )
        self._socket_path = plan.socket_path
        far_sides, most = plan.far_sides, plan.max_body_bytes
        translator = Translator(far_sides, Library(), self._report, most)
        self._runner = web.AppRunner(
            translator.app,
            access_log=None,
            handler_cancellation=True,
            auto_decompress=False,
            max_line_size=plan.max_head_bytes,
            max_field_size=plan.max_head_bytes,
            shutdown_timeout=_STOP_S,
        )

    def _report(self, upstream: str, kind: str) -> None:
        self._log.write("translation_failed", "warning", {"upstream": upstream, "error": kind})

    async def start(self) -> None:
        """Serve; the socket of a translator that died is in the way."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._socket_path)
        await self._runner.setup()
        old = os.umask(0o177)
        try:
            await web.UnixSite(self._runner, self._socket_path).start()
        finally:
            os.umask(old)

    async def run(self, stop: asyncio.Event) -> None:
        """Write the log until told to stop, then close everything."""
        while not stop.is_set():
            self._log.flush()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _FLUSH_S)
        await self._runner.cleanup()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._socket_path)
        self._log.flush()


async def run_translator(control: socket.socket) -> None:
    """Run a translator until SIGTERM, or until the supervisor is gone."""
    reader, out = await asyncio.open_connection(sock=control)
    plan = await receive(reader)
    if not isinstance(plan, TranslatorPlan):
        raise TypeError("the first message must be TranslatorPlan")
    make_socket_folder(plan.socket_path)
    app = TranslatorApp(plan)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    await app.start()
    gc.collect()
    gc.freeze()
    out.write(frame(Ready(os.getpid())))
    watching = loop.create_task(_stop_with(reader, stop))
    await app.run(stop)
    watching.cancel()
    out.close()


async def _stop_with(reader: asyncio.StreamReader, stop: asyncio.Event) -> None:
    await reader.read()
    stop.set()


def main() -> None:
    """Run a translator on the inherited control socket."""
    uvloop.run(run_translator(socket.socket(fileno=int(sys.argv[1]))))


if __name__ == "__main__":
    main()
