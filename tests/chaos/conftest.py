"""A campaign under attack: its workers, its database, and the network between them."""

import asyncio
import json
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

RESET = struct.pack("ii", 1, 0)
"""``SO_LINGER`` for a close that the other side learns of as a reset."""


class Nursery:
    """Starts workers of one campaign; see ``nursery.py``.

    Args:
        storage: of the campaign.
        folder: for checkpoints and events.
        name: of the campaign.
        lease_seconds: of its leases.
        tops: the budget, in runs at the ladder's top.
        lag: trials in flight, less one.
        cheap: draw proposals instead of working them out.
    """

    def __init__(
        self, storage: str, folder: Path, *, name: str, lease_seconds: float, tops: float, lag: int, cheap: bool
    ) -> None:
        options = {"folder": folder, "storage": storage, "name": name, "lease-seconds": lease_seconds}
        options |= {"tops": tops, "lag": lag}
        arguments = [f"--{key}={value}" for key, value in options.items()] + ["--cheap"] * cheap
        self._said = (folder / "nursery.log").open("ab")
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("nursery.py")), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )

    def __call__(self, do: str, **more: object) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps({"do": do} | more), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self._said.close()


@dataclass(eq=False)
class _Link:
    """One connection through the proxy: both ends, and what carries bytes between them."""

    ends: tuple[asyncio.StreamWriter, asyncio.StreamWriter]
    pumps: list[asyncio.Task[None]] = field(default_factory=list)

    def drop(self, *which: int) -> None:
        """Reset some of the ends (0: the client's, 1: the server's); what remains open is never heard of again."""
        for pump in self.pumps:
            pump.cancel()
        for index in which or (0, 1):
            writer = self.ends[index]
            if not writer.transport.is_closing():
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                writer.transport.abort()


class Network:
    """A TCP proxy on the loopback interface, which can be cut.

    Args:
        port: of the server behind it, on 127.0.0.1.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._links: set[_Link] = set()
        self._loop = asyncio.new_event_loop()
        self._flows = asyncio.Event()
        self._flows.set()
        self._accepts = True
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = self._do(asyncio.start_server(self._connect, "127.0.0.1", 0))
        self.port: int = self._server.sockets[0].getsockname()[1]

    def _do(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if not self._accepts:
                raise ConnectionRefusedError
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:  # there is no server, or no way to it
            writer.transport.abort()
            return
        link = _Link((writer, far_writer))
        self._links.add(link)
        link.pumps += [
            asyncio.create_task(self._pump(link, reader, far_writer)),
            asyncio.create_task(self._pump(link, far_reader, writer)),
        ]

    async def _pump(self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                await self._flows.wait()
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        link.drop()
        self._links.discard(link)

    def _now(self, act: Callable[[], None]) -> None:
        async def run() -> None:
            act()

        self._do(run())

    def cut(self) -> None:
        """Reset all connections and refuse new ones."""

        def act() -> None:
            self._accepts = False
            for link in list(self._links):
                link.drop()
            self._links.clear()

        self._now(act)

    def cut_one(self, draw: Callable[[int], int]) -> None:
        """Reset one of the connections; its process does not lose the others."""

        def act() -> None:
            links = list(self._links)
            if links:
                link = links[draw(len(links))]
                link.drop()
                self._links.discard(link)

        self._now(act)

    def stall(self) -> None:
        """Carry nothing any more, and lose nothing: what is sent arrives late."""
        self._now(self._flows.clear)

    def half_open(self, gone: int) -> None:
        """Reset one end (0: the client's, 1: the server's) of all connections; the other hears nothing until healed."""

        def act() -> None:
            self._accepts = False
            for link in self._links:
                link.drop(gone)

        self._now(act)

    def heal(self) -> None:
        """Let everything through; half-open connections are reset, as keepalives do sooner or later."""

        def act() -> None:
            for link in list(self._links):
                if any(end.transport.is_closing() for end in link.ends):
                    link.drop()
                    self._links.discard(link)
            self._accepts = True
            self._flows.set()

        self._now(act)

    def close(self) -> None:
        self._now(self._server.close)
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()


@pytest.fixture
def new_nursery(tmp_path: Path) -> Iterator[Callable[..., Nursery]]:
    nurseries: list[Nursery] = []

    def new(storage: str, **fields: Any) -> Nursery:
        nurseries.append(Nursery(storage, tmp_path, **fields))
        return nurseries[-1]

    yield new
    for nursery in nurseries:
        nursery.close()


@pytest.fixture
def network(postgresql_server: Any) -> Iterator[Network]:
    network = Network(postgresql_server.port)
    yield network
    network.close()
