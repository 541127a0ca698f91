"""A node of the cluster that shares no code with ours: it speaks the wire contract through nats-py.

`peer.py ROLE URL ARGUMENT...` prints `ready` once the server knows it, then what it hears, one JSON object a line. What
it is to do next comes the same way on standard input, at whose end it leaves.
"""

import asyncio
import json
import sys
import time

import nats
from nats.micro import add_service
from nats.micro.request import ServiceError
from nats.micro.service import ServiceInfo, ServicePing, ServiceStats


def tell(**what) -> None:
    print(json.dumps(what), flush=True)


def as_json(value) -> bytes:
    return json.dumps(value).encode()


def heard(message) -> dict:
    """What came, as it came: the body undecoded."""
    return {
        "subject": message.subject,
        "reply": message.reply,
        "headers": dict(message.headers or {}),
        "body": message.data.decode(),
    }


async def orders():
    """What the test wants, line by line, until it wants no more."""
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        yield json.loads(line)


async def listen(client, *subjects: str) -> None:
    """Only hears."""

    async def hear(message) -> None:
        tell(**heard(message))

    for subject in subjects:
        await client.subscribe(subject, cb=hear)
    await ready(client)
    async for _ in orders():
        pass


async def publish(client) -> None:
    """Publishes what it is told to: a text, or bytes that are none."""
    await ready(client)
    async for order in orders():
        body = bytes.fromhex(order["hex"]) if "hex" in order else order["text"].encode()
        await client.publish(order["subject"], body)


async def answer(client, subject: str) -> None:
    """Answers each request with the next order; `report` stands for a proper health report."""
    requests: asyncio.Queue = asyncio.Queue()
    await client.subscribe(subject, cb=requests.put)
    await ready(client)
    async for order in orders():
        request = await requests.get()
        tell(**heard(request))
        body = order["text"].encode() if "text" in order else health_report(json.loads(request.data), order["report"])
        await client.publish(request.reply, body, headers=order.get("headers"))


def health_report(check: dict, worker_id: str) -> bytes:
    return as_json(
        {
            "workerId": worker_id,
            "requestId": check["requestId"],
            "status": "degraded",
            "metrics": None,
            "timestamp": int(time.time() * 1000),
            "somethingNewer": True,
        }
    )


async def worker(client, worker_id: str) -> None:
    """Sends one token a message, never acknowledges, counts nothing, as the nodes do that were there before us.

    A prompt `fail` ends with an error, and one that ends in `...` does not end until it is cancelled.
    """
    running: dict = {}

    async def handle(message) -> None:
        tell(**heard(message))
        body = json.loads(message.data)
        if message.subject.endswith(".cancel"):
            await cancel(body)
        else:
            await infer(body)

    async def infer(request: dict) -> None:
        request_id, prompt = request["requestId"], request["prompt"]

        async def send(**frame) -> None:
            await client.publish(f"response.{request_id}", as_json({"requestId": request_id, **frame}))

        for index, word in enumerate(prompt.split()):
            await send(type="token", token=word, index=index)
        if prompt.endswith("..."):
            running[request_id] = send
        elif prompt == "fail":
            await send(type="error", error="the model gave up", code="MODEL_CRASHED")
        else:
            await send(type="done", totalTokens=0, latencyMs=12)

    async def cancel(order: dict) -> None:
        send = running.pop(order["requestId"])
        if order["mode"] == "stop":
            await send(type="done", totalTokens=0, latencyMs=12)

    # One subscription for both, so that they are handled in the order in which they were sent.
    await client.subscribe(f"worker.{worker_id}.*", cb=handle)
    await ready(client)
    async for _ in orders():
        pass


async def ask(client) -> None:
    """Sends requests, and tells what is answered."""
    await ready(client)
    async for order in orders():
        reply = await client.request(order["subject"], order["text"].encode(), timeout=10, headers=order.get("headers"))
        tell(**heard(reply))


async def requester(client, worker_id: str) -> None:
    """Streams as those nodes do: it offers nothing, and has no inbox. An order is a request or a cancellation."""

    async def hear(message) -> None:
        tell(**heard(message))

    await client.subscribe("response.*", cb=hear)
    await ready(client)
    async for order in orders():
        await client.publish(f"worker.{worker_id}.{'cancel' if 'mode' in order else 'inference'}", as_json(order))


async def discover(client) -> None:
    """Asks which services there are, and tells as many answers as it is told to wait for, as its own library reads them."""
    reads = {"PING": ServicePing, "INFO": ServiceInfo, "STATS": ServiceStats}
    await ready(client)
    async for order in orders():
        answers: asyncio.Queue = asyncio.Queue()
        inbox = client.new_inbox()
        subscription = await client.subscribe(inbox, cb=answers.put)
        await client.publish(order["subject"], reply=inbox)
        verb = order["subject"].split(".")[1]
        found = []
        while len(found) < order["count"]:
            answer = json.loads((await answers.get()).data)
            found.append(reads[verb].from_dict(answer).to_dict() | {"type": answer["type"]})
        tell(found=found)
        await subscription.unsubscribe()


async def micro(client) -> None:
    """Serves `lab.half` as a NATS service does: half of an even number, and an error otherwise."""

    async def half(request) -> None:
        number = json.loads(request.data)
        if number % 2:
            raise ServiceError("422", "an odd number")
        await request.respond(as_json(number // 2))

    service = await add_service(client, name="halver", version="0.1.0")
    await service.add_endpoint(name="half", subject="lab.half", handler=half)
    await ready(client)
    async for _ in orders():
        pass
    await service.stop()


async def ready(client) -> None:
    await client.flush()  # a round trip: the server has the subscriptions
    print("ready", flush=True)


ROLES = {role.__name__: role for role in (listen, publish, answer, worker, ask, requester, discover, micro)}


async def main(role: str, url: str, *arguments: str) -> None:
    client = await nats.connect(url)
    await ROLES[role](client, *arguments)
    await client.drain()


asyncio.run(main(*sys.argv[1:]))
