"""A network that can be cut: a TCP proxy in front of a server on this machine."""

import asyncio

HOST = "127.0.0.1"


class TcpProxy:
    """Forwards connections to `target`, until they are cut or frozen."""

    def __init__(self, target: str) -> None:
        self.target = target
        self._server: asyncio.Server | None = None
        self._pipes: list[asyncio.Task[None]] = []
        self._writers: list[asyncio.StreamWriter] = []

    async def start(self) -> str:
        self._server = await asyncio.start_server(self._accept, HOST, 0)
        return f"{HOST}:{self._server.sockets[0].getsockname()[1]}"

    def cut(self) -> None:
        """Both ends of every connection notice."""
        for writer in self._writers:
            writer.close()
        self.freeze()

    def freeze(self) -> None:
        """Nobody notices: nothing goes through the connections there are any more, and they stay open."""
        for pipe in self._pipes:
            pipe.cancel()
        self._pipes.clear()

    async def stop(self) -> None:
        self.cut()
        if self._server is not None:
            self._server.close()
        await asyncio.sleep(0.05)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = self.target.rpartition(":")
        try:
            there_reader, there_writer = await asyncio.open_connection(host, int(port))
        except OSError:
            writer.close()
            return
        self._writers += [writer, there_writer]
        loop = asyncio.get_running_loop()
        self._pipes += [loop.create_task(pipe(reader, there_writer)), loop.create_task(pipe(there_reader, writer))]


async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy until the end."""
    try:
        while data := await reader.read(2**16):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    writer.close()
