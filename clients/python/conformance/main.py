"""Does the steps of clients/conformance and prints what it sees; judges nothing.

    main.py sync|asyncio STEPS_FILE
"""

import asyncio
import hashlib
import inspect
import json
import sys
import uuid

import grpc
from google.protobuf.duration_pb2 import Duration
from grpc_health.v1 import health_pb2, health_pb2_grpc

import claudepool
from claudepool import ClaudepoolError, Tls, v1

CLIENT = claudepool if sys.argv[1] == "sync" else claudepool.aio


async def get(answer):
    """The answer of either client."""
    return await answer if inspect.isawaitable(answer) else answer


async def each(stream):
    """The items of either client's stream."""
    if hasattr(stream, "__aiter__"):
        async for item in stream:
            yield item
    else:
        for item in stream:
            yield item


def connect(step, direct=False):
    ca = step.get("ca_file")
    tls = Tls(ca=open(ca, "rb").read()) if ca else None
    return CLIENT.connect(step["direct" if direct else "address"], tls=tls, token=step.get("token"))


def text(events):
    return "".join(e.text_delta.text for e in events if e.WhichOneof("kind") == "text_delta")


def dense(events, begin=1):
    return [e.sequence for e in events] == list(range(begin, begin + len(events)))


def state(events):
    return v1.TaskState.Name(events[-1].finished.state).removeprefix("TASK_STATE_")


def failure(result):
    if not result.HasField("failure"):
        return ""
    return v1.FailureReason.Name(result.failure.reason).removeprefix("FAILURE_REASON_")


def digest(events):
    return hashlib.sha256(b"".join(e.SerializeToString(deterministic=True) for e in events)).hexdigest()


async def refusal(answer):
    """What an answer was refused with."""
    try:
        await get(answer() if callable(answer) else answer)
    except grpc.RpcError as error:
        return ClaudepoolError.of(error)
    except ClaudepoolError as error:
        return error
    raise AssertionError("it was not refused")


async def collect(stream):
    return [item async for item in each(stream)]


async def health(pool, step):
    stub = health_pb2_grpc.HealthStub(pool.channel)
    answer = await get(stub.Check(health_pb2.HealthCheckRequest(service=step["service"])))
    return {"status": health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)}


async def run(pool, step):
    result = await get(pool.run(step["prompt"]))
    return {"success": result.success, "output": result.output, "failure": failure(result)}


def tagged(step):
    """The step's task with a tag of its own, to count by."""
    return v1.TaskSpec(prompt=step["prompt"], tags=[str(uuid.uuid4())])


async def tasks(pool, task):
    """How many tasks there are with its tag."""
    request = v1.ListTasksRequest(filter=v1.TaskFilter(any_tags=task.tags))
    return len((await get(pool.pool.ListTasks(request))).tasks)


async def run_stream(pool, step):
    task = tagged(step)
    stream = pool.run_stream(task)
    events = await collect(stream)
    deltas = sum(e.WhichOneof("kind") == "text_delta" for e in events)
    return {
        "text": text(events), "deltas": deltas, "dense": dense(events),
        "task_id": bool(stream.task_id), "state": state(events), "tasks": await tasks(pool, task),
    }


async def submit_once(pool, step):
    task = tagged(step)
    await get(pool.submit(task))
    return {"tasks": await tasks(pool, task)}


async def submit_watch(pool, step):
    events = await collect(pool.watch(await get(pool.submit(step["prompt"]))))
    return {"dense": dense(events), "state": state(events)}


async def late_attach(pool, step):
    task_id = await get(pool.submit(step["prompt"]))
    await get(pool.pool.GetResult(v1.GetResultRequest(task_id=task_id, wait=Duration(seconds=60))))
    events = await collect(pool.watch(task_id))
    rest = await collect(pool.watch(task_id, step["after_sequence"]))
    return {"dense": dense(events), "rest_is_tail": rest == events[step["after_sequence"] :] and bool(rest)}


async def cancel(pool, step):
    task_id = await get(pool.submit(step["prompt"]))
    events = []
    async for event in each(pool.watch(task_id)):
        if event.WhichOneof("kind") == "text_delta":
            await get(pool.pool.Cancel(v1.CancelRequest(task_id=task_id)))
        events.append(event)
    await get(pool.pool.Cancel(v1.CancelRequest(task_id=task_id)))
    return {"state": state(events), "repeat": True}


async def fan_out(pool, step):
    request = v1.FanOutRequest(tasks=[v1.TaskSpec(prompt=p) for p in step["prompts"]])
    items = [m.finished for m in await collect(pool.pool.FanOut(request)) if m.WhichOneof("item") == "finished"]
    items.sort(key=lambda item: item.index)
    return {"outputs": [i.result.output if i.result.success else "" for i in items], "failures": [failure(i.result) for i in items]}


def chain_steps(step):
    return [v1.ChainStep(name=s["name"], prompt=s["prompt"]) for s in step["steps"]]


async def chain(pool, step):
    made = await get(pool.pool.SubmitChain(v1.SubmitChainRequest(steps=chain_steps(step))))
    messages = await collect(pool.pool.WatchChain(v1.WatchChainRequest(task_id=made.task_id)))
    seen = [m.progress for m in messages if m.WhichOneof("item") == "progress"]
    last, numbers = seen[-1], [p.sequence for p in seen]
    answer = await get(pool.pool.GetResult(v1.GetResultRequest(task_id=made.task_id)))
    return {
        "status": v1.ChainStatus.Name(last.status).removeprefix("CHAIN_STATUS_"),
        "outputs": [s.output for s in answer.result.chain.steps],
        "rising": all(a < b for a, b in zip(numbers, numbers[1:])),
        "completed": [s.name for s in last.completed_steps],
    }


async def workflow(pool, step):
    arguments = [v1.Argument(name=name, required=True) for name in step["arguments"]]
    made = v1.Workflow(name=step["workflow"], description="Greets.", arguments=arguments, steps=chain_steps(step))
    await get(pool.catalog.PutWorkflow(v1.PutWorkflowRequest(workflow=made)))
    request = v1.SubmitWorkflowRequest(name=step["workflow"], arguments=step["arguments"])
    task_id = (await get(pool.pool.SubmitWorkflow(request))).task_id
    answer = await get(pool.pool.GetResult(v1.GetResultRequest(task_id=task_id, wait=Duration(seconds=60))))
    return {"final_output": answer.result.chain.final_output}


async def context(pool, step):
    key = step["key"]
    await get(pool.context.SetContext(v1.SetContextRequest(key=key, value=step["value"])))
    listed = await get(pool.context.ListContext(v1.ListContextRequest()))
    result = await get(pool.run(step["prompt"]))
    await get(pool.context.DeleteContext(v1.DeleteContextRequest(key=key)))
    error = await refusal(lambda: pool.context.GetContext(v1.GetContextRequest(key=key)))
    return {
        "listed": [e.value for e in listed.entries if e.key == key] == [step["value"]],
        "seen": step["value"] in result.output, "code": error.code.name, "reason": error.reason,
    }


async def refused(pool, step):
    settings = v1.RunSettings(budget_microdollars=step["budget_microdollars"])
    error = await refusal(lambda: pool.submit(v1.TaskSpec(prompt=step["prompt"], settings=settings)))
    return {"code": error.code.name, "reason": error.reason, "fields": list(error.violations)}


async def paused(pool, step):
    await get(pool.operator.Pause(v1.PauseRequest()))
    try:
        error = await refusal(lambda: pool.submit(step["prompt"]))
    finally:
        await get(pool.operator.Resume(v1.ResumeRequest()))
    return {"code": error.code.name, "reason": error.reason, "retry_after_ms": int((error.retry_after or 0) * 1000)}


async def deadline(pool, step):
    error = await refusal(lambda: pool.run(step["prompt"], timeout=step["timeout_ms"] / 1000))
    return {"code": error.code.name}


async def same_bytes(pool, step):
    direct = connect(step, direct=True)
    task_id = await get(direct.submit(step["prompt"]))
    disturbed = await collect(pool.watch(task_id))
    undisturbed = await collect(direct.watch(task_id))
    shared = await collect(direct.watch(step["task_id"]))
    await get(direct.close())
    return {
        "disturbed": digest(disturbed), "undisturbed": digest(undisturbed), "events": len(disturbed),
        "shared": digest(shared),
    }


async def main():
    for step in json.load(open(sys.argv[2]))["steps"]:
        try:
            pool = connect(step)
            told = {"saw": await globals()[step["op"]](pool, step)}
            await get(pool.close())
        except Exception as error:
            told = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps({"step": step["name"], **told}), flush=True)


asyncio.run(main())
