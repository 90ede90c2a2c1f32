"""The two callbacks: whatever they do blocks nothing."""
import asyncio
import gc
import pathlib
import threading
import weakref

import herold
from herold import HeroldError, LogLevel

from support import PASSWORD, Case, register, until


def thread_name():
    """What the system calls this thread."""
    return pathlib.Path(f"/proc/self/task/{threading.get_native_id()}/comm").read_text().strip()


class Wake(herold.WakeUp):
    """Notes each call, then does what it was told to."""

    def __init__(self, then=lambda: None):
        self.then = then
        self.threads = []

    def wake(self):
        self.threads.append(thread_name())
        self.then()


class Sink(herold.LogSink):
    def __init__(self, then=lambda: None):
        self.then = then
        self.records = []

    def log(self, record):
        self.records.append(record)
        self.then()


def fail():
    raise RuntimeError("a callback's own fault")


class Callbacks(Case):
    async def asyncTearDown(self):
        herold.set_log_sink(LogLevel.ERROR, None)
        await super().asyncTearDown()

    async def talk(self, wake_up):
        """Alice writes to Bob, who has this wake-up; answers what Bob needs to go on."""
        alice = await self.log_in("alice", register("alice"))
        bob = await self.log_in("bob", register("bob"))
        bob.set_wake_up(wake_up)
        room = await self.bring_together(alice, bob)
        for number in range(3):
            sent = await asyncio.wait_for(alice.send_text(room, f"message {number}"), 30)
            await self.expect_reads(bob, room, sent, f"message {number}")
            answer = await asyncio.wait_for(bob.send_text(room, f"answer {number}"), 30)
            await self.expect_reads(alice, room, answer, f"answer {number}")
        return alice, bob, room

    async def test_a_wake_up_comes_for_events_and_on_another_thread(self):
        wake_up = Wake()
        alice, bob, room = await self.talk(wake_up)
        await until(lambda: wake_up.threads, "no wake-up came")
        self.assertEqual(set(wake_up.threads), {"herold-wake-up"})
        # All taken, then one more: it is announced.
        events = await bob.next_events(0)
        await bob.acknowledge(events[-1].number)
        count = len(wake_up.threads)
        await alice.send_text(room, "another")
        await until(lambda: len(wake_up.threads) > count, "a new event was not announced")
        self.assertTrue(await bob.next_events(10_000))
        # No more once it is taken away.
        bob.set_wake_up(None)
        await asyncio.sleep(0.2)
        count = len(wake_up.threads)
        sent = await alice.send_text(room, "unannounced")
        await self.expect_reads(bob, room, sent, "unannounced")
        self.assertEqual(len(wake_up.threads), count)

    async def test_one_that_hangs_blocks_nothing(self):
        release = threading.Event()
        self.addCleanup(release.set)
        wake_up = Wake(lambda: release.wait(120))
        _, bob, _ = await self.talk(wake_up)
        self.assertEqual(len(wake_up.threads), 1, "it was called while it was running")
        self.assertTrue(await bob.next_events(0))
        # Well below the time that threads get to end.
        await asyncio.wait_for(bob.close(), 4)
        await asyncio.wait_for((await self.resume("bob")).rooms(), 20)
        release.set()
        await asyncio.sleep(0.2)
        self.assertEqual(len(wake_up.threads), 1, "it was called after the end")

    async def test_one_that_raises_blocks_nothing(self):
        wake_up = Wake(fail)
        await self.talk(wake_up)
        await until(lambda: len(wake_up.threads) > 1, "it was not called again")

    async def test_close_lets_go_of_it(self):
        wake_up = Wake()
        gone = weakref.ref(wake_up)
        client = await self.log_in("alice", register("alice"))
        client.set_wake_up(wake_up)
        del wake_up
        gc.collect()
        self.assertIsNotNone(gone())
        await client.close()
        await until(lambda: gc.collect() is not None and gone() is None, "it is still held")

    async def test_a_log_sink_that_hangs_or_raises_blocks_nothing(self):
        release = threading.Event()
        self.addCleanup(release.set)
        for then in (lambda: release.wait(120), fail):
            sink = Sink(then)
            herold.set_log_sink(LogLevel.TRACE, sink)
            for client in self.clients:
                await client.close()
            self.folder += "-"
            await asyncio.wait_for(self.talk(None), 90)
            # An unreachable homeserver is worth a line.
            lost = await self.log_in("lost", register("lost"), ready=False)
            await lost.close()
            lost = await self.resume("lost", homeserver="http://127.0.0.1:9")
            await lost.start_sync()
            await until(lambda: sink.records, "nothing was logged")
            if then is fail:
                await until(lambda: len(sink.records) > 1, "it was not called again")

    async def test_the_log_has_what_happens_and_no_secret(self):
        sink = Sink()
        herold.set_log_sink(LogLevel.TRACE, sink)
        await self.talk(None)
        with self.assertRaises(HeroldError.Denied):
            await herold.Client.log_in(self.config("x"), register("x"), "wrong-horse")
        lost = await self.log_in("lost", register("lost"), ready=False)
        await lost.close()
        lost = await self.resume("lost", homeserver="http://127.0.0.1:9")
        await lost.start_sync()
        await until(lambda: any("sync failed" in r.text for r in sink.records), "nothing was logged")
        for record in sink.records:
            self.assertTrue(record.target.startswith("herold"), record.target)
            for secret in (PASSWORD, "wrong-horse", "message 1", "answer 1", "syt_"):
                self.assertNotIn(secret, record.text)
        # Nothing any more once it is off.
        herold.set_log_sink(LogLevel.TRACE, None)
        await asyncio.sleep(0.2)
        count = len(sink.records)
        await lost.close()
        lost = await self.resume("lost", homeserver="http://127.0.0.1:9")
        await lost.start_sync()
        await asyncio.sleep(1)
        self.assertEqual(len(sink.records), count)
