"""Alice sends Bob an encrypted message: hello.py URL ALICE BOB, passwords in the environment."""
import asyncio, os, sys, tempfile
from herold import *

async def log_in(folder, url, user, password):
    policy = Policy(recipients=Recipients.ALL_DEVICES)  # neither account is cross-signed yet
    client = await Client.log_in(ClientConfig(
        store_path=f"{folder}/{user.strip('@')}", store_key=StoreKey.raw(os.urandom(32)),
        homeserver=url, deployment=Deployment(name="hello", policy=policy)), user, password)
    await client.start_sync()
    await client.wait_ready(30_000)
    return client

async def main(url, alice, bob):
    with tempfile.TemporaryDirectory() as folder:
        alice = await log_in(folder, url, alice, os.environ["ALICE_PASSWORD"])
        bob = await log_in(folder, url, bob, os.environ["BOB_PASSWORD"])
        room = await alice.create_room(RoomSettings(invite=[bob.user_id()]))
        await bob.wait_for_member(room, bob.user_id(), Membership.INVITE, 30_000)
        await bob.join(room)
        await alice.wait_for_member(room, bob.user_id(), Membership.JOIN, 30_000)
        sent = await alice.send_text(room, "Hello Bob")
        got = await bob.wait_for_event(room, sent, 30_000)
        print(got.sender, "says", "encrypted:" if got.encrypted else "in clear:", got.content.body)
        for client in alice, bob:
            await client.log_out()
            await client.close()

asyncio.run(main(*sys.argv[1:]))
