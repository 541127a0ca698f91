"""Connects to the servers of its command line, and says when it is connected again."""

import asyncio
import sys

import nats


async def main():
    again = asyncio.Event()

    async def reconnected():
        again.set()

    async def ignore(_error):
        pass

    client = await nats.connect(
        servers=sys.argv[1:], reconnected_cb=reconnected, error_cb=ignore, max_reconnect_attempts=-1
    )
    print(client.connected_url.netloc, flush=True)
    await again.wait()
    print("reconnected", flush=True)
    await asyncio.sleep(60)


asyncio.run(main())
