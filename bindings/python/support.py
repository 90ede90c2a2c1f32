"""What the tests share. `cargo xtask bindings` sets the environment."""
import asyncio
import faulthandler
import itertools
import json
import os
import pathlib
import tempfile
import time
import unittest
import urllib.request

import herold
from herold import Client, ClientConfig, Deployment, HeroldError, Policy, Recipients, StoreKey

HOMESERVER = os.environ["HEROLD_HOMESERVER"]
PASSWORD = os.environ["HEROLD_PASSWORD"]
#: How long anything may take, in milliseconds, and a whole test, in seconds.
PATIENCE = 30_000
TEST_PATIENCE = 180

_numbers = itertools.count()


def request(method, path, body=None, token=None):
    """One request to the homeserver, past Herold."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    data = None if body is None else json.dumps(body).encode()
    ask = urllib.request.Request(HOMESERVER + path, data, headers, method=method)
    with urllib.request.urlopen(ask, timeout=PATIENCE / 1000) as answer:
        return json.load(answer)


def register(name):
    """Makes a user; answers the user id."""
    body = {
        "username": f"{name}-py-{os.getpid()}-{next(_numbers)}",
        "password": PASSWORD,
        "inhibit_login": True,
        "auth": {"type": "m.login.dummy"},
    }
    return request("POST", "/_matrix/client/v3/register", body)["user_id"]


def brand(name):
    """A brand. Nobody is cross-signed, so the keys go to all devices."""
    policy = Policy(recipients=Recipients.ALL_DEVICES)
    return Deployment(name=name, policy=policy, device_display_name=name)


def key_of(name):
    """A real app takes this from the platform's key store."""
    return StoreKey.raw(name.encode().ljust(32, b"-")[:32])


def threads():
    """The names of this process's threads."""
    names = []
    for task in pathlib.Path("/proc/self/task").iterdir():
        try:
            names.append((task / "comm").read_text().strip())
        except OSError:
            pass  # It has just ended.
    return names


def files():
    """What this process has open."""
    return len(os.listdir("/proc/self/fd"))


async def until(holds, what, seconds=10):
    """Waits until something holds."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            raise AssertionError(what() if callable(what) else what)
        await asyncio.sleep(0.02)


class Case(unittest.IsolatedAsyncioTestCase):
    """A test with a folder and clients of its own. Should it hang, the whole run ends."""

    async def asyncSetUp(self):
        faulthandler.dump_traceback_later(TEST_PATIENCE, exit=True)
        asyncio.get_running_loop().set_debug(False)
        folder = tempfile.TemporaryDirectory(dir=os.environ["HEROLD_FOLDER"])
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.clients = []

    async def asyncTearDown(self):
        for client in self.clients:
            await client.close()
        self.clients.clear()
        faulthandler.cancel_dump_traceback_later()

    def config(self, device, deployment=None, **more):
        more.setdefault("homeserver", HOMESERVER)
        more.setdefault("store_key", key_of(device))
        return ClientConfig(
            store_path=f"{self.folder}/{device}", deployment=deployment or brand("test"), **more
        )

    async def log_in(self, device, user, deployment=None, ready=True):
        client = await Client.log_in(self.config(device, deployment), user, PASSWORD)
        self.clients.append(client)
        if ready:
            await client.start_sync()
            await client.wait_ready(PATIENCE)
        return client

    async def resume(self, device, deployment=None, **more):
        client = await Client.resume(self.config(device, deployment, **more))
        self.clients.append(client)
        return client

    async def bring_together(self, host, *guests):
        """An encrypted room with all of them joined."""
        invite = [guest.user_id() for guest in guests]
        room = await host.create_room(herold.RoomSettings(invite=invite))
        for guest in guests:
            user = guest.user_id()
            await guest.wait_for_member(room, user, herold.Membership.INVITE, PATIENCE)
            await guest.join(room)
            await host.wait_for_member(room, user, herold.Membership.JOIN, PATIENCE)
        return room

    async def expect_reads(self, client, room, event_id, text):
        event = await client.wait_for_event(room, event_id, PATIENCE)
        self.assertTrue(event.encrypted)
        self.assertIsInstance(event.content, herold.Content.TEXT, event.content)
        self.assertEqual(event.content.body, text)
        return event

    def assert_error(self, error, kind, code=None):
        self.assertIs(type(error), kind, repr(error))
        if code is not None:
            self.assertEqual(error.code, code)

    async def expect_error(self, kind, call, code=None):
        with self.assertRaises(kind) as raised:
            await call
        self.assertIsInstance(raised.exception, HeroldError)
        if code is not None:
            self.assertEqual(raised.exception.code, code)
        return raised.exception
