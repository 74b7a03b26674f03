"""The client for asyncio: as that of `claudepool`, with `await` and `async for`."""

from __future__ import annotations

import asyncio
from typing import Any, AsyncGenerator, AsyncIterator, Callable, Optional

import grpc
import grpc.aio

from claudepool import _core, v1
from claudepool._core import ClaudepoolError, Following, Task, Tls


def connect(address: str = "127.0.0.1:50051", *, token: Optional[str] = None, tls: Optional[Tls] = None) -> Client:
    """As `claudepool.connect`. To be called where a loop runs."""
    where, credentials = _core.target(address, tls, token)
    settings: dict[str, Any] = {
        "options": _core.channel_options(),
        "interceptors": [_UnaryCalls(token), _StreamCalls(token)],
    }
    if credentials:
        return Client(grpc.aio.secure_channel(where, credentials, **settings))
    return Client(grpc.aio.insecure_channel(where, **settings))


class Client:
    """The helpers and, as `pool`, `operator`, `catalog` and `context`, the stubs."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.pool: v1.PoolServiceAsyncStub = v1.PoolServiceStub(channel)  # type: ignore[assignment]
        self.operator: v1.OperatorServiceAsyncStub = v1.OperatorServiceStub(channel)  # type: ignore[assignment]
        self.catalog: v1.CatalogServiceAsyncStub = v1.CatalogServiceStub(channel)  # type: ignore[assignment]
        self.context: v1.ContextServiceAsyncStub = v1.ContextServiceStub(channel)  # type: ignore[assignment]

    async def run(self, task: Task, *, timeout: Optional[float] = None, request_id: str = "") -> v1.TaskResult:
        """As `claudepool.Client.run`."""
        async for event in self.run_stream(task, timeout=timeout, request_id=request_id):
            if event.WhichOneof("kind") == "finished":
                return event.finished.result
        raise _core.ended_early()

    def run_stream(self, task: Task, *, timeout: Optional[float] = None, request_id: str = "") -> TaskStream:
        """As `claudepool.Client.run_stream`."""
        request = v1.RunStreamRequest(task=_core.spec(task), request_id=request_id or _core.new_request_id())

        def attach(after_sequence: int, remaining: Optional[float]) -> Any:
            request.after_sequence = after_sequence
            return self.pool.RunStream(request, timeout=remaining)

        return TaskStream(attach, Following(0, timeout))

    def watch(self, task_id: str, after_sequence: int = 0, *, timeout: Optional[float] = None) -> TaskStream:
        """As `claudepool.Client.watch`."""

        def attach(after_sequence: int, remaining: Optional[float]) -> Any:
            request = v1.WatchTaskRequest(task_id=task_id, after_sequence=after_sequence)
            return self.pool.WatchTask(request, timeout=remaining)

        return TaskStream(attach, Following(after_sequence, timeout), task_id)

    async def submit(self, task: Task, *, timeout: Optional[float] = None, request_id: str = "") -> str:
        """As `claudepool.Client.submit`."""
        request = v1.SubmitRequest(task=_core.spec(task), request_id=request_id)
        try:
            return (await self.pool.Submit(request, timeout=timeout)).task_id
        except grpc.RpcError as error:
            raise ClaudepoolError.of(error) from error

    async def close(self) -> None:
        await self.channel.close()

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class TaskStream:
    """As `claudepool.TaskStream`."""

    def __init__(self, attach: Callable[[int, Optional[float]], Any], following: Following, task_id: str = "") -> None:
        self.task_id = task_id
        self._events = self._follow(attach, following)

    def __aiter__(self) -> AsyncIterator[v1.Event]:
        return self._events

    async def aclose(self) -> None:
        await self._events.aclose()

    async def _follow(self, attach: Callable[[int, Optional[float]], Any], following: Following) -> AsyncGenerator[v1.Event, None]:
        while True:
            call = attach(following.sequence, following.remaining())
            try:
                async for message in call:
                    kind = message.WhichOneof("item")
                    following.heard()
                    if kind == "accepted":
                        self.task_id = message.accepted.task_id
                    elif kind == "event" and following.is_new(message.event):
                        yield message.event
                        if following.ended:
                            return
                error = _core.ended_early()
            except grpc.RpcError as broken:
                error = ClaudepoolError.of(broken)
            finally:
                call.cancel()
            await asyncio.sleep(following.lost(error))


def _with_token(details: grpc.aio.ClientCallDetails, token: Optional[str]) -> grpc.aio.ClientCallDetails:
    if not token:
        return details
    metadata = grpc.aio.Metadata(*(details.metadata or ()), ("authorization", f"Bearer {token}"))
    return grpc.aio.ClientCallDetails(
        details.method, details.timeout, metadata, details.credentials, details.wait_for_ready
    )


class _UnaryCalls(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self, token: Optional[str]) -> None:
        self._token = token

    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        return await continuation(_with_token(details, self._token), _core.with_request_id(request))


class _StreamCalls(grpc.aio.UnaryStreamClientInterceptor):
    def __init__(self, token: Optional[str]) -> None:
        self._token = token

    async def intercept_unary_stream(self, continuation: Any, details: Any, request: Any) -> Any:
        return await continuation(_with_token(details, self._token), _core.with_request_id(request))
