"""Bad input is a typed error each time, never the end of the process."""
import asyncio
import threading

import herold
from herold import Client, ClientConfig, HeroldError, LogLevel, Membership, RoomSettings, StoreKey

from support import HOMESERVER, PASSWORD, Case, brand, key_of, register

HUGE = "x" * 100_000_000
ROOM, EVENT, USER = "!room:herold.test", "$event", "@user:herold.test"


class BadInput(Case):
    async def test_wrong_types(self):
        client = await self.log_in("alice", register("alice"), ready=False)
        config = self.config("x")
        for call in (
            lambda: Client.log_in(None, "user", "password"),
            lambda: Client.log_in("config", "user", "password"),
            lambda: Client.log_in(config, 5, "password"),
            lambda: Client.log_in(config, "user", None),
            lambda: Client.log_in(config, "user", b"password"),
            lambda: Client.resume({}),
            lambda: client.join(None),
            lambda: client.join(5),
            lambda: client.send_text(ROOM, b"bytes"),
            lambda: client.send_text(ROOM, ["list"]),
            lambda: client.send_file(ROOM, "name", "type", "text"),
            lambda: client.timeline(ROOM, "5"),
            lambda: client.timeline(ROOM, 1.5),
            lambda: client.wait_for_member(ROOM, USER, "join", 5),
            lambda: client.create_room(RoomSettings(invite="@user:herold.test")),
            lambda: client.create_room(RoomSettings(invite=[5])),
            lambda: client.create_room(5),
        ):
            with self.assertRaises(
                (TypeError, AttributeError, ValueError, HeroldError.FixInput)
            ):
                await call()
        for call in (
            lambda: StoreKey.raw("text"),
            lambda: StoreKey.passphrase(5),
            lambda: client.set_wake_up(lambda: None),
            lambda: herold.set_log_sink(5, None),
            lambda: herold.set_log_sink(LogLevel.INFO, "sink"),
            lambda: ClientConfig(store_path="x"),
        ):
            with self.assertRaises((TypeError, AttributeError, ValueError)):
                call()
        self.assertEqual(await client.rooms(), [])

    async def test_numbers_that_do_not_fit(self):
        client = await self.log_in("alice", register("alice"), ready=False)
        for number in (-1, 2**32, 2**64, 10**30):
            with self.assertRaises(ValueError):
                await client.timeline(ROOM, number)
        for number in (-1, 2**64):
            with self.assertRaises(ValueError):
                await client.next_events(number)
        for number in (0, 1001, 2**32 - 1):
            await self.expect_error(HeroldError.FixInput, client.timeline(ROOM, number))
        await client.acknowledge(2**64 - 1)
        settings = RoomSettings(rotation_messages=2**64 - 1)
        with self.assertRaises(HeroldError):
            await client.join("!unknown:herold.test")
        try:
            await client.create_room(settings)
        except HeroldError:
            pass  # The homeserver may find it too large a number.
        with self.assertRaises(asyncio.TimeoutError):
            await asyncio.wait_for(client.wait_for_event(ROOM, EVENT, 2**64 - 1), 0.3)

    async def test_empty_malformed_and_huge_strings(self):
        client = await self.log_in("alice", register("alice"), ready=False)
        for bad in ("", " ", "x", "@", "!", "$", "@x", "\0", "!\0:x", "@ü\n:x", HUGE, "!" + HUGE):
            for call in (  # Each is made and awaited within this round.
                lambda: client.join(bad),
                lambda: client.leave(bad),
                lambda: client.members(bad),
                lambda: client.invite(bad, USER),
                lambda: client.invite(ROOM, bad),
                lambda: client.kick(ROOM, bad),
                lambda: client.devices(bad),
                lambda: client.send_text(bad, "text"),
                lambda: client.queue_text(bad, "text"),
                lambda: client.send_file(bad, "name", "text/plain", b""),
                lambda: client.timeline(bad, 1),
                lambda: client.wait_for_member(bad, USER, Membership.JOIN, 1),
                lambda: client.create_room(RoomSettings(invite=[bad])),
            ):
                await self.expect_error(HeroldError.FixInput, call())
        for call in (
            lambda: client.send_text(ROOM, ""),
            lambda: client.send_text(ROOM, HUGE),
            lambda: client.queue_text(ROOM, HUGE),
            lambda: client.send_file(ROOM, HUGE, "text/plain", b""),
            lambda: client.send_file(ROOM, "", "text/plain", b""),
            lambda: client.send_file(ROOM, "name", HUGE, b""),
            lambda: client.download(ROOM, ""),
            lambda: client.fetch_event(ROOM, HUGE),
            lambda: client.wait_for_event(ROOM, "", 1),
            lambda: client.cancel_queued(""),
            lambda: client.retry_queued(HUGE),
            lambda: client.create_room(RoomSettings(name=HUGE)),
            lambda: client.create_room(RoomSettings(invite=[USER] * 100_000)),
        ):
            await self.expect_error(HeroldError.FixInput, call())
        # What is well-formed and unknown is told apart from what is malformed.
        await self.expect_error(HeroldError.NotFound, client.send_text(ROOM, "text"), "unknown_room")
        await self.expect_error(HeroldError.NotFound, client.members(ROOM), "unknown_room")
        # No such text can be encoded at all.
        with self.assertRaises(UnicodeEncodeError):
            await client.send_text(ROOM, "\ud800")
        self.assertEqual(await client.rooms(), [])

    async def test_a_login_that_cannot_be(self):
        good = self.config("x")
        for user, password in (("", "p"), (HUGE, "p"), ("u", ""), ("u", HUGE), ("u\n", "p")):
            await self.expect_error(HeroldError.FixInput, Client.log_in(good, user, password))
        for name in ("", HUGE, "a\nb"):
            await self.expect_error(HeroldError.FixInput, Client.log_in(good, "u", "p", name))
        for more in (
            {"homeserver": ""}, {"homeserver": HUGE}, {"homeserver": "matrix.org"},
            {"homeserver": "file:///etc/passwd"}, {"homeserver": "http://herold.example"},
            {"homeserver": "https://"}, {"homeserver": None},
        ):
            config = self.config("bad", **more)
            await self.expect_error(HeroldError.FixInput, Client.log_in(config, "u", "p"))
        for path in ("", "a\0b", HUGE):
            config = ClientConfig(store_path=path, store_key=key_of("x"), homeserver=HOMESERVER)
            await self.expect_error(HeroldError.FixInput, Client.log_in(config, "u", "p"))
        config = ClientConfig(
            store_path="/proc/herold", store_key=key_of("x"), homeserver=HOMESERVER)
        with self.assertRaises(HeroldError):
            await Client.log_in(config, "u", "p")
        for length in (0, 31, 33, 10_000_000):
            with self.assertRaises(HeroldError.FixInput):
                StoreKey.raw(bytes(length))
        for passphrase in ("", HUGE):
            with self.assertRaises(HeroldError.FixInput):
                StoreKey.passphrase(passphrase)
        deployment = herold.Deployment(name="")
        config = self.config("bad", deployment)
        await self.expect_error(HeroldError.FixInput, Client.log_in(config, "u", "p"))

    async def test_each_error_says_what_to_do(self):
        alice = register("alice")
        config = self.config("alice")
        await self.expect_error(HeroldError.LogInAgain, Client.resume(config), "not_logged_in")
        wrong = await self.expect_error(
            HeroldError.Denied, Client.log_in(config, alice, "wrong horse"), "M_FORBIDDEN")
        self.assertNotIn("wrong horse", repr(wrong))
        nobody = self.config("nobody", homeserver="http://127.0.0.1:9")
        await self.expect_error(
            HeroldError.RetryLater, Client.log_in(nobody, alice, PASSWORD), "transport")
        fixed = brand("fixed")
        fixed.homeserver = "https://matrix.example"
        denied = self.config("fixed", fixed)
        await self.expect_error(
            HeroldError.Denied, Client.log_in(denied, alice, PASSWORD), "policy_denied")
        client = await self.log_in("alice", alice, ready=False)
        await client.close()
        again = Client.log_in(self.config("alice"), alice, PASSWORD)
        await self.expect_error(HeroldError.ResumeInstead, again, "already_logged_in")
        key = self.config("alice", store_key=key_of("other"))
        await self.expect_error(HeroldError.AskForStoreKey, Client.resume(key), "store_wrong_key")
        other = self.config("alice", brand("other"))
        await self.expect_error(HeroldError.Denied, Client.resume(other), "wrong_deployment")
        client = await self.resume("alice")
        await self.expect_error(HeroldError.WaitLonger, client.wait_ready(1), "timeout")
        await client.log_out()
        await self.expect_error(HeroldError.LogInAgain, client.start_sync(), "logged_out")

    async def test_a_panic_is_an_error_and_harms_nothing(self):
        client = await self.log_in("alice", register("alice"))
        room = await client.create_room(RoomSettings())
        for _ in range(3):
            with self.assertRaises(HeroldError.Bug) as raised:
                herold.provoke_panic()
            self.assertEqual(raised.exception.code, "panic")
            await self.expect_error(HeroldError.Bug, client.provoke_panic(), "panic")
            await self.expect_error(HeroldError.Bug, client.provoke_panic_in_step(room), "panic")
            sent = await asyncio.wait_for(client.send_text(room, "still here"), 30)
            await self.expect_reads(client, room, sent, "still here")
        await client.close()
        await self.resume("alice")

    async def test_calls_from_several_threads(self):
        client = await self.log_in("alice", register("alice"))
        room = await client.create_room(RoomSettings())
        unexpected, done = [], []
        stop = threading.Event()

        async def work(number):
            while not stop.is_set():
                await client.queue_text(room, f"from thread {number}")
                await client.timeline(room, 10)
                await client.rooms()
                events = await client.next_events(1)
                if events:
                    await client.acknowledge(events[-1].number)
                client.user_id()
                done.append(number)

        def run(number):
            try:
                asyncio.run(work(number))
                unexpected.append("it was never closed")
            except HeroldError.Closed:
                pass
            except BaseException as error:  # Whatever it is, it should not be.
                unexpected.append(repr(error))

        workers = [threading.Thread(target=run, args=(n,), daemon=True) for n in range(8)]
        for worker in workers:
            worker.start()
        await asyncio.sleep(2)
        self.assertEqual(set(done), set(range(8)), "a thread got nowhere")
        # In the midst of it all.
        await asyncio.wait_for(client.close(), 30)
        for worker in workers:
            await asyncio.to_thread(worker.join, 30)
            self.assertFalse(worker.is_alive(), "a call never ended")
        stop.set()
        self.assertEqual(unexpected, [])
