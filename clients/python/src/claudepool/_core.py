"""What the two clients have in common: everything that does no I/O."""

from __future__ import annotations

import importlib.resources
import time
import uuid
from dataclasses import dataclass
from typing import Any, Optional, Union

import grpc
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]

from claudepool import v1

DOMAIN = "claudepool"
# Longest time for which a broken stream is taken up again without an answer.
RECONNECT_SECONDS = 30.0
# The same before the server has answered at all.
CONNECT_SECONDS = 5.0
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0

Task = Union[str, v1.TaskSpec]


@dataclass(frozen=True)
class Tls:
    """How to do TLS. All in PEM. Without `ca` the system's roots are trusted."""

    ca: Optional[bytes] = None
    certificate: Optional[bytes] = None
    key: Optional[bytes] = None


class ClaudepoolError(Exception):
    """A refused or broken call.

    `code`: the gRPC code. `reason`: the word of docs/errors.md, empty if the
    server did not answer. `retry_after`: seconds, if the server says when.
    `violations`: what is wrong, by field path.
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        reason: str = "",
        retry_after: Optional[float] = None,
        violations: Optional[dict[str, str]] = None,
    ) -> None:
        super().__init__(f"{reason or code.name}: {message}")
        self.code, self.message, self.reason = code, message, reason
        self.retry_after = retry_after
        self.violations = violations or {}

    @classmethod
    def of(cls, error: grpc.RpcError) -> ClaudepoolError:
        """What an error of a stub says."""
        rpc: Any = error  # grpc.Call or grpc.aio.AioRpcError
        made = cls(rpc.code(), rpc.details() or "")
        for key, value in rpc.trailing_metadata() or ():
            if key == "grpc-status-details-bin":
                made = cls(rpc.code(), rpc.details() or "", *_details(value))
        made.__cause__ = error
        return made


def _details(status: bytes) -> tuple[str, Optional[float], dict[str, str]]:
    reason, retry_after, violations = "", None, {}
    for detail in status_pb2.Status.FromString(status).details:
        info = error_details_pb2.ErrorInfo()
        retry = error_details_pb2.RetryInfo()
        bad = error_details_pb2.BadRequest()
        if detail.Unpack(info) and info.domain == DOMAIN:
            reason = info.reason
        elif detail.Unpack(retry):
            retry_after = retry.retry_delay.ToTimedelta().total_seconds()
        elif detail.Unpack(bad):
            violations = {v.field: v.description for v in bad.field_violations}
    return reason, retry_after, violations


class Following:
    """Where a stream of events is, over however many connections."""

    def __init__(self, after_sequence: int, timeout: Optional[float]) -> None:
        self.sequence = after_sequence
        self.ended = False
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._attached = False
        self._pause = FIRST_PAUSE
        self._broken_at: Optional[float] = None

    def remaining(self) -> Optional[float]:
        """Seconds until the caller's deadline."""
        return None if self._deadline is None else max(self._deadline - time.monotonic(), 0.001)

    def heard(self) -> None:
        """The server answers."""
        self._attached, self._pause, self._broken_at = True, FIRST_PAUSE, None

    def is_new(self, event: v1.Event) -> bool:
        """Whether the event was not seen before."""
        self.heard()
        if event.sequence <= self.sequence:
            return False
        self.sequence = event.sequence
        self.ended = event.WhichOneof("kind") == "finished"
        return True

    def lost(self, error: ClaudepoolError) -> float:
        """Seconds to wait before attaching again; raises what nothing can mend."""
        code, answered = error.code, bool(error.reason)
        broken = code is grpc.StatusCode.UNAVAILABLE or (
            not answered and code in (grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL)
        )
        now = time.monotonic()
        self._broken_at = self._broken_at or now
        # A server that restarts says so, and is worth waiting for.
        self._attached = self._attached or error.reason in ("DRAINING", "STARTING")
        patience = RECONNECT_SECONDS if self._attached else CONNECT_SECONDS
        if not broken or (answered and not self._attached) or now - self._broken_at > patience:
            raise error
        pause = max(self._pause, error.retry_after or 0.0)
        self._pause = min(self._pause * 2, LONGEST_PAUSE)
        remaining = self.remaining()
        return pause if remaining is None else min(pause, remaining)


def ended_early() -> ClaudepoolError:
    return ClaudepoolError(grpc.StatusCode.UNAVAILABLE, "the stream ended before the task did")


def spec(task: Task) -> v1.TaskSpec:
    return v1.TaskSpec(prompt=task) if isinstance(task, str) else task


def new_request_id() -> str:
    return str(uuid.uuid4())


def with_request_id(request: Any) -> Any:
    """The request with a request_id, where it can have one and has none."""
    field = request.DESCRIPTOR.fields_by_name.get("request_id")
    if field is None or request.request_id:
        return request
    made = type(request)()
    made.CopyFrom(request)
    made.request_id = new_request_id()
    return made


def target(address: str, tls: Optional[Tls], token: Optional[str]) -> tuple[str, Optional[grpc.ChannelCredentials]]:
    """The target and its credentials, if TLS is meant."""
    scheme, found, rest = address.partition("://")
    if not found:
        scheme, rest = ("https" if tls else "http"), address
    if address.startswith("unix:"):
        return address, None
    if scheme not in ("http", "https"):
        raise ValueError(f"{address}: say http://host:port, https://host:port or unix:/path")
    rest = rest.rstrip("/")
    if scheme == "http":
        host = rest.rpartition(":")[0].strip("[]")
        if token and not (host in ("localhost", "::1") or host.startswith("127.")):
            raise ValueError("a token is sent over TLS or loopback only: say https://")
        return rest, None
    tls = tls or Tls()
    return rest, grpc.ssl_channel_credentials(tls.ca, tls.key, tls.certificate)


def channel_options() -> list[tuple[str, Any]]:
    config = importlib.resources.files("claudepool").joinpath("service_config.json").read_text()
    return [
        ("grpc.service_config", config),
        ("grpc.initial_reconnect_backoff_ms", 100),
        # Also the longest that one attempt may take.
        ("grpc.min_reconnect_backoff_ms", 5000),
        ("grpc.max_reconnect_backoff_ms", 2000),
        # A connection that has died silently is found out.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 20_000),
    ]
