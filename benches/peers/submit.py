"""procrastinate on the same jobs as queue.mjs; prints JSON.

submit.py PORT CALLERS SECONDS
"""

import asyncio
import json
import sys
import time

from procrastinate import App, PsycopgConnector

port, callers, seconds = sys.argv[1:]
PROMPT = "Look at the last ten commits and say in one sentence what they change."
conninfo = f"postgres://postgres@127.0.0.1:{port}/postgres"
app = App(connector=PsycopgConnector(conninfo=conninfo, min_size=int(callers), max_size=int(callers)))


@app.task(name="task", queue="bench")
async def task(prompt):
    return "ok"


async def main():
    async with app.open_async():
        try:
            await app.schema_manager.apply_schema_async()
        except Exception as error:
            # Of an earlier round.
            if "already exists" not in str(error.__cause__ or error):
                raise
        begun = time.perf_counter()
        end = begun + float(seconds)

        async def caller():
            count = 0
            while time.perf_counter() < end:
                await task.defer_async(prompt=PROMPT)
                count += 1
            return count

        counts = await asyncio.gather(*(caller() for _ in range(int(callers))))
        print(json.dumps({"rate": sum(counts) / (time.perf_counter() - begun)}))


asyncio.run(main())
