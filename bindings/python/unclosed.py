"""An app that ends in the midst of everything, without closing: unclosed.py FOLDER DEVICE URL."""
import asyncio
import sys

import herold
from herold import Client, ClientConfig, LogLevel

from support import PATIENCE, brand, key_of


class Wake(herold.WakeUp):
    def wake(self):
        pass


class Sink(herold.LogSink):
    def log(self, record):
        pass


async def main(folder, device, url):
    herold.set_log_sink(LogLevel.TRACE, Sink())
    client = await Client.resume(ClientConfig(
        store_path=f"{folder}/{device}", store_key=key_of(device), deployment=brand("test"),
        homeserver=url))
    client.set_wake_up(Wake())
    await client.start_sync()
    await client.wait_ready(PATIENCE)
    room = await client.create_room(herold.RoomSettings())
    for number in range(20):
        await client.queue_text(room, f"text {number}")
    KEPT.append(client)


KEPT = []
asyncio.run(main(*sys.argv[1:]))
