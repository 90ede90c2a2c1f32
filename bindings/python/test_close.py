"""`close` frees everything."""
import asyncio
import gc
import pathlib
import re
import subprocess
import sys

import herold
from herold import Client, HeroldError, StoreKey

from support import HOMESERVER, PATIENCE, Case, files, register, threads, until

ROUNDS = 12
ROOM, EVENT, USER = "!room:herold.test", "$event", "@user:herold.test"


def ours():
    return [name for name in threads() if name.startswith("herold")]


def memory():
    """Kilobytes that are resident."""
    status = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1])


def calls(client):
    """Each method that can fail, called with something sensible."""
    nothing = herold.Authentication.NOTHING()
    return {
        "start_sync": client.start_sync,
        "stop_sync": client.stop_sync,
        "wait_ready": lambda: client.wait_ready(1),
        "rooms": client.rooms,
        "create_room": lambda: client.create_room(herold.RoomSettings()),
        "join": lambda: client.join(ROOM),
        "leave": lambda: client.leave(ROOM),
        "invite": lambda: client.invite(ROOM, USER),
        "kick": lambda: client.kick(ROOM, USER),
        "members": lambda: client.members(ROOM),
        "wait_for_member": lambda: client.wait_for_member(ROOM, USER, herold.Membership.JOIN, 1),
        "devices": lambda: client.devices(USER),
        "send_text": lambda: client.send_text(ROOM, "text"),
        "queue_text": lambda: client.queue_text(ROOM, "text"),
        "cancel_queued": lambda: client.cancel_queued("txn"),
        "retry_queued": lambda: client.retry_queued("txn"),
        "send_file": lambda: client.send_file(ROOM, "name", "text/plain", b"data"),
        "download": lambda: client.download(ROOM, EVENT),
        "timeline": lambda: client.timeline(ROOM, 1),
        "fetch_event": lambda: client.fetch_event(ROOM, EVENT),
        "wait_for_event": lambda: client.wait_for_event(ROOM, EVENT, 1),
        "next_events": lambda: client.next_events(1),
        "acknowledge": lambda: client.acknowledge(1),
        "log_out": client.log_out,
        "recovery_state": client.recovery_state,
        "next_recovery_state": lambda: client.next_recovery_state(None, 1),
        "enable_recovery": lambda: client.enable_recovery(nothing),
        "reset_recovery": lambda: client.reset_recovery(nothing),
        "change_recovery_key": lambda: client.change_recovery_key("key"),
        "confirm_recovery_key": client.confirm_recovery_key,
        "recover": lambda: client.recover("key"),
        "start_dehydration": client.start_dehydration,
        "rehydrate": client.rehydrate,
        "stop_dehydration": client.stop_dehydration,
        "dehydration_status": client.dehydration_status,
        "delete_device": lambda: client.delete_device("DEVICE", nothing),
        "backup_status": client.backup_status,
        "wait_for_backup": lambda: client.wait_for_backup(1),
        "restore_backup": client.restore_backup,
        "export_keys": lambda: client.export_keys("/nowhere/keys", "passphrase"),
        "import_keys": lambda: client.import_keys("/nowhere/keys", "passphrase"),
        "invite_with_history": lambda: client.invite_with_history(ROOM, USER),
        "would_forget": lambda: client.would_forget(herold.Retention()),
        "forget": lambda: client.forget(herold.Retention()),
        "suspend": client.suspend,
        "unsuspend": client.unsuspend,
        "request_verification": lambda: client.request_verification(USER),
        "request_room_verification": lambda: client.request_room_verification(ROOM, USER),
        "verifications": client.verifications,
        "verification": lambda: client.verification(USER, "flow"),
        "act_on_verification": lambda: client.act_on_verification(
            USER, "flow", herold.VerificationAction.CANCEL),
        "show_verification_code": lambda: client.show_verification_code(USER, "flow"),
        "scan_verification_code": lambda: client.scan_verification_code(USER, "flow", b""),
        "set_blocked": lambda: client.set_blocked(USER, "DEVICE", True),
        "accept_identity": lambda: client.accept_identity(USER),
        "withdraw_verification": lambda: client.withdraw_verification(USER),
        "provoke_panic": client.provoke_panic,
        "provoke_panic_in_step": lambda: client.provoke_panic_in_step(ROOM),
    }


class Close(Case):
    async def test_threads_files_memory_and_the_lock_are_free(self):
        client = await self.log_in("alice", register("alice"))
        self.assertTrue(ours())
        await client.close()

        async def open_and_close():
            client = await Client.resume(self.config("alice"))
            await client.start_sync()
            await client.wait_ready(PATIENCE)
            await client.close()

        for _ in range(3):
            await open_and_close()
        await until(lambda: not ours(), lambda: f"threads are left: {ours()}")
        gc.collect()
        files_before, memory_before = files(), memory()
        for _ in range(ROUNDS):
            # Nothing waits here: the lock is free when `close` answers.
            await open_and_close()
            self.assertLessEqual(files(), files_before)
        await until(lambda: not ours(), lambda: f"threads are left: {ours()}")
        gc.collect()
        self.assertLessEqual(files(), files_before)
        grown = memory() - memory_before
        self.assertLess(grown, 10_000, f"{grown} kB more after {ROUNDS} rounds")

    async def test_use_after_it_is_a_typed_error(self):
        client = await self.log_in("alice", register("alice"), ready=False)
        await client.close()
        names = {name for name in dir(Client) if not name.startswith("_")}
        all_calls = calls(client)
        left_out = names - set(all_calls)
        expected = {"close", "device_id", "log_in", "resume", "set_wake_up", "user_id"}
        self.assertEqual(left_out, expected, "a method is not tested")
        for name, call in all_calls.items():
            with self.subTest(name):
                await self.expect_error(HeroldError.Closed, call(), "closed")
        with self.assertRaises(HeroldError.Closed):
            client.set_wake_up(None)
        await client.close()
        self.assertTrue(client.user_id() and client.device_id())

    async def test_calls_under_way_end_with_a_typed_error(self):
        client = await self.log_in("alice", register("alice"))
        waiting = [asyncio.create_task(client.next_events(600_000)) for _ in range(3)]
        for task in waiting:  # What is there already is not waited for.
            await asyncio.wait([task], timeout=0.2)
        events = await client.next_events(0)
        if events:
            await client.acknowledge(events[-1].number)
            waiting = [asyncio.create_task(client.next_events(600_000))]
        waiting.append(asyncio.create_task(client.wait_for_event(ROOM, EVENT, 600_000)))
        await asyncio.sleep(0.3)
        both = await asyncio.wait_for(asyncio.gather(client.close(), client.close()), 30)
        self.assertEqual(both, [None, None])
        results = await asyncio.gather(*waiting, return_exceptions=True)
        for result in results:
            self.assert_error(result, HeroldError.Closed)

    async def test_what_is_only_let_go_of_is_closed_too(self):
        client = await self.log_in("alice", register("alice"))
        self.clients.clear()
        del client
        gc.collect()
        await until(lambda: not ours(), lambda: f"threads are left: {ours()}")
        await self.resume("alice")

    async def test_a_program_that_ends_without_it_ends_well(self):
        await (await self.log_in("alice", register("alice"))).close()
        for _ in range(10):
            run = await asyncio.to_thread(
                subprocess.run, [sys.executable, "unclosed.py", self.folder, "alice", HOMESERVER],
                stderr=subprocess.PIPE, timeout=60, check=False)
            self.assertEqual((run.returncode, run.stderr), (0, b""))

    async def test_an_open_store_is_locked(self):
        await self.log_in("alice", register("alice"), ready=False)
        await self.expect_error(HeroldError.StoreLocked, Client.resume(self.config("alice")))

    async def test_a_call_that_is_cancelled_harms_nothing(self):
        client = await self.log_in("alice", register("alice"))
        room = await client.create_room(herold.RoomSettings())
        events = await client.next_events(0)
        if events:
            await client.acknowledge(events[-1].number)
        for _ in range(5):
            with self.assertRaises(asyncio.TimeoutError):
                await asyncio.wait_for(client.wait_for_event(room, EVENT, 600_000), 0.05)
        await client.send_text(room, "still here")
        self.assertIsInstance(StoreKey.raw(bytes(32)), StoreKey)
