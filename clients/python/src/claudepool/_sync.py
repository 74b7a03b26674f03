"""The client for threads."""

from __future__ import annotations

import collections
import time
from typing import Any, Callable, Generator, Iterator, Optional

import grpc

from claudepool import _core, v1
from claudepool._core import ClaudepoolError, Following, Task, Tls


def connect(address: str = "127.0.0.1:50051", *, token: Optional[str] = None, tls: Optional[Tls] = None) -> Client:
    """A client of the server at `http://host:port`, `https://host:port` or
    `unix:/path`. It connects when it is first used.

    `token`: sent with every call; over TLS or loopback only.
    """
    where, credentials = _core.target(address, tls, token)
    options = _core.channel_options()
    if credentials:
        channel = grpc.secure_channel(where, credentials, options)
    else:
        channel = grpc.insecure_channel(where, options)
    return Client(channel, token)


class Client:
    """The helpers and, as `pool`, `operator`, `catalog` and `context`, the stubs.

    What the stubs raise is a grpc.RpcError: `ClaudepoolError.of` reads it. A
    request that creates work and has no request_id gets one, so that the channel
    may send it again.
    """

    def __init__(self, channel: grpc.Channel, token: Optional[str] = None) -> None:
        self._closable = channel
        self.channel = grpc.intercept_channel(channel, _EveryCall(token))
        stub: Any = self.channel
        self.pool = v1.PoolServiceStub(stub)
        self.operator = v1.OperatorServiceStub(stub)
        self.catalog = v1.CatalogServiceStub(stub)
        self.context = v1.ContextServiceStub(stub)

    def run(self, task: Task, *, timeout: Optional[float] = None, request_id: str = "") -> v1.TaskResult:
        """Runs a prompt and gives its result. A task that failed is an answer
        too: see `result.failure`. `timeout` in seconds; past it the task is
        cancelled, as it is when this is interrupted."""
        for event in self.run_stream(task, timeout=timeout, request_id=request_id):
            if event.WhichOneof("kind") == "finished":
                return event.finished.result
        raise _core.ended_early()

    def run_stream(self, task: Task, *, timeout: Optional[float] = None, request_id: str = "") -> TaskStream:
        """Runs a prompt and gives its events. A broken connection is taken up
        again; the task waits for that a few seconds."""
        request = v1.RunStreamRequest(task=_core.spec(task), request_id=request_id or _core.new_request_id())

        def attach(after_sequence: int, remaining: Optional[float]) -> Any:
            request.after_sequence = after_sequence
            return self.pool.RunStream(request, timeout=remaining)

        return TaskStream(attach, Following(0, timeout))

    def watch(self, task_id: str, after_sequence: int = 0, *, timeout: Optional[float] = None) -> TaskStream:
        """A task's events after a sequence, each once, until the task ends."""

        def attach(after_sequence: int, remaining: Optional[float]) -> Any:
            request = v1.WatchTaskRequest(task_id=task_id, after_sequence=after_sequence)
            return self.pool.WatchTask(request, timeout=remaining)

        return TaskStream(attach, Following(after_sequence, timeout), task_id)

    def submit(self, task: Task, *, timeout: Optional[float] = None, request_id: str = "") -> str:
        """Makes a task durable and gives its id. It runs once, however often
        the call had to be sent."""
        request = v1.SubmitRequest(task=_core.spec(task), request_id=request_id)
        try:
            return self.pool.Submit(request, timeout=timeout).task_id
        except grpc.RpcError as error:
            raise ClaudepoolError.of(error) from error

    def close(self) -> None:
        self._closable.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class TaskStream:
    """A task's events. `task_id` is known once the first has come, or from the
    beginning. Leaving the loop early ends the call; `close` does so too."""

    def __init__(self, attach: Callable[[int, Optional[float]], Any], following: Following, task_id: str = "") -> None:
        self.task_id = task_id
        self._events = self._follow(attach, following)

    def __iter__(self) -> Iterator[v1.Event]:
        return self._events

    def close(self) -> None:
        self._events.close()

    def _follow(self, attach: Callable[[int, Optional[float]], Any], following: Following) -> Generator[v1.Event, None, None]:
        while True:
            call = attach(following.sequence, following.remaining())
            try:
                for message in call:
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
            time.sleep(following.lost(error))


class _Details(
    collections.namedtuple("_Details", "method timeout metadata credentials wait_for_ready compression"),
    grpc.ClientCallDetails,
):
    pass


class _EveryCall(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):
    """Adds the token, and a request_id where one belongs."""

    def __init__(self, token: Optional[str]) -> None:
        self._metadata = [("authorization", f"Bearer {token}")] if token else []

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        metadata = [*(details.metadata or ()), *self._metadata]
        made = _Details(
            details.method, details.timeout, metadata, details.credentials, details.wait_for_ready, details.compression
        )
        return continuation(made, _core.with_request_id(request))

    intercept_unary_stream = intercept_unary_unary  # type: ignore[assignment]
