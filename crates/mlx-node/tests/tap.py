"""Listens in on a cluster with a client that is not ours (nats-py), and prints what it hears, one JSON object a line."""

import asyncio
import json
import sys

import nats


async def main(url: str) -> None:
    client = await nats.connect(url)

    async def hear(message) -> None:
        heard = {
            "subject": message.subject,
            "reply": message.reply,
            "headers": dict(message.headers or {}),
            "body": json.loads(message.data),
        }
        print(json.dumps(heard), flush=True)

    for pattern in ("worker.>", "response.>", "cluster.>"):
        await client.subscribe(pattern, cb=hear)
    await client.flush()
    print("ready", flush=True)
    # The test holds our standard input open for as long as it wants to listen.
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await client.drain()


asyncio.run(main(sys.argv[1]))
