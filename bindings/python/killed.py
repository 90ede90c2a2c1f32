"""An app that is killed with a message in its queue: killed.py FOLDER DEVICE ROOM TEXT."""
import asyncio
import os
import signal
import sys

from herold import Client, ClientConfig

from support import brand, key_of


async def main(folder, device, room, text):
    # Nobody answers there, so the message stays in the queue.
    client = await Client.resume(ClientConfig(
        store_path=f"{folder}/{device}", store_key=key_of(device), deployment=brand("Amtsbote"),
        homeserver="http://127.0.0.1:9"))
    await client.queue_text(room, text)
    print(client.device_id(), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


asyncio.run(main(*sys.argv[1:]))
