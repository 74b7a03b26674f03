"""The Python agent SDK on the same tasks: `query` per task, or clients kept.

cli.py query|client CLAUDE TASKS SLOTS DIR PROMPT; prints JSON.
"""

import asyncio
import json
import sys
import time

from claude_agent_sdk import ClaudeAgentOptions, ClaudeSDKClient, ResultMessage, query

mode, claude, tasks, slots, directory, prompt = sys.argv[1:]
options = ClaudeAgentOptions(cli_path=claude, cwd=directory)


async def answered(messages):
    """Reads to the result."""
    ok = False
    async for message in messages:
        if isinstance(message, ResultMessage):
            ok = not message.is_error
    if not ok:
        raise RuntimeError("a task failed")


async def per_task(count):
    times = []
    for _ in range(count):
        asked = time.perf_counter()
        await answered(query(prompt=prompt, options=options))
        times.append((time.perf_counter() - asked) * 1e3)
    return times


async def kept(count, begin):
    """One client, whose conversation goes on: it has no reset."""
    times = []
    async with ClaudeSDKClient(options) as client:
        await client.query(prompt)
        await answered(client.receive_response())
        await begin()
        for _ in range(count):
            asked = time.perf_counter()
            await client.query(prompt)
            await answered(client.receive_response())
            times.append((time.perf_counter() - asked) * 1e3)
    return times


async def main():
    count, each = int(slots), int(tasks) // int(slots)
    begun = time.perf_counter()
    ready = 0
    all_ready = asyncio.Event()

    async def begin():
        nonlocal ready, begun
        ready += 1
        if ready == count:
            begun = time.perf_counter()
            all_ready.set()
        await all_ready.wait()

    work = [per_task(each) if mode == "query" else kept(each, begin) for _ in range(count)]
    times = [t for some in await asyncio.gather(*work) for t in some]
    print(json.dumps({"times": times, "seconds": time.perf_counter() - begun}))


asyncio.run(main())
