"""A TCP proxy that knows enough of HTTP/2 to cut a connection after a number of
gRPC messages."""

import asyncio

DATA, HEADERS = 0, 1


class Messages:
    """Counts the gRPC messages in the DATA of one HTTP/2 stream."""

    def __init__(self):
        self.header = b""
        self.left = 0
        self.seen = 0

    def ends(self, data):
        """Where in `data` messages end."""
        at = 0
        while at < len(data):
            if len(self.header) < 5:
                take = data[at : at + 5 - len(self.header)]
                self.header += take
                at += len(take)
                if len(self.header) < 5:
                    return
                self.left = int.from_bytes(self.header[1:], "big")
            take = min(self.left, len(data) - at)
            self.left -= take
            at += take
            if self.left == 0:
                self.header = b""
                self.seen += 1
                yield at


class Proxy:
    """Listens on a free port of loopback and forwards to a server.

    `cut_every`: each connection is cut after so many messages from the server.
    `cut_once`: the first alone; 0 cuts it before its first answer begins.

    No cut follows the first message of a stream: it may be the answer of a unary
    call, which no client sends again once a part of the answer has come.
    """

    def __init__(self, upstream, cut_every=None, cut_once=None):
        self.upstream = upstream
        self.cut_every = cut_every
        self.cut_once = cut_once
        self.cuts = 0
        self.connections = set()

    async def start(self):
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        host, port = self.server.sockets[0].getsockname()
        return f"http://{host}:{port}"

    async def stop(self):
        self.server.close()
        for task in list(self.connections):
            task.cancel()
        await asyncio.gather(*self.connections, return_exceptions=True)

    async def _serve(self, reader, writer):
        self.connections.add(asyncio.current_task())
        limit = self.cut_every
        if self.cut_once is not None:
            limit, self.cut_once = self.cut_once, None
        server_writer = None
        try:
            server_reader, server_writer = await asyncio.open_connection(*self.upstream)
            up = asyncio.create_task(_copy(reader, server_writer))
            down = asyncio.create_task(
                _copy(server_reader, writer) if limit is None else self._count(server_reader, writer, limit)
            )
            try:
                await asyncio.wait([up, down], return_when=asyncio.FIRST_COMPLETED)
            finally:
                up.cancel()
                down.cancel()
                await asyncio.gather(up, down, return_exceptions=True)
                server_writer.close()
                # To close with something unread would be a reset, which throws
                # away what is on its way to the client.
                await asyncio.wait_for(_sink(reader), 5)
        except (OSError, asyncio.TimeoutError):
            pass
        finally:
            for end in (writer, server_writer):
                if end:
                    end.close()
            self.connections.discard(asyncio.current_task())

    async def _count(self, reader, writer, limit):
        """Forwards frames until `limit` messages have gone by, exactly."""
        streams, seen = {}, 0
        try:
            while True:
                head = await reader.readexactly(9)
                length, kind, stream = int.from_bytes(head[:3], "big"), head[3], int.from_bytes(head[5:], "big")
                body = await reader.readexactly(length)
                if kind == HEADERS and limit == 0:
                    break
                cut = None
                if kind == DATA:
                    messages = streams.setdefault(stream, Messages())
                    for end in messages.ends(body):
                        seen += 1
                        if seen >= limit and messages.seen > 1:
                            cut = end
                            break
                if cut is not None:
                    # The frame up to here, and not the stream's end.
                    writer.write(cut.to_bytes(3, "big") + bytes([DATA, 0]) + head[5:] + body[:cut])
                    break
                writer.write(head + body)
                await writer.drain()
        except asyncio.IncompleteReadError:
            return
        self.cuts += 1
        writer.write_eof()


async def _copy(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass


async def _sink(reader):
    while await reader.read(65536):
        pass
