"""Client of claudepool.

    import claudepool

    with claudepool.connect("127.0.0.1:50051") as pool:
        for event in pool.run_stream("Say hello."):
            print(event.text_delta.text, end="")

`claudepool.v1` has the messages and the stubs, `claudepool.aio` the same client
for asyncio.
"""

from claudepool import aio, v1
from claudepool._core import ClaudepoolError, Tls
from claudepool._sync import Client, TaskStream, connect

__all__ = ["ClaudepoolError", "Client", "TaskStream", "Tls", "aio", "connect", "v1"]
