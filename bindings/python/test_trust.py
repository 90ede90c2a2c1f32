"""Recovery, verification, room keys and whom one trusts: one test for each group of calls."""
import asyncio
import os

import herold
from herold import (
    Authentication, Event, HeroldError, IdentityState, Lifetimes, Membership, RecoveryChange, RecoverySecret,
    RecoveryState, Retention, RoomSettings, SharedHistory, VerificationAction, VerificationState,
)

from support import PASSWORD, PATIENCE, Case, key_of, register, until

WITH_PASSWORD = Authentication.PASSWORD(PASSWORD)


class Counter(herold.ProgressSink):
    """Notes what it is told."""

    def __init__(self):
        self.told = []

    def progress(self, progress):
        self.told.append((progress.done, progress.total))


class Trust(Case):
    async def enabled(self, device, user):
        """A device whose user has an identity, a backup and a recovery key."""
        client = await self.log_in(device, user)
        recovery = await client.enable_recovery(WITH_PASSWORD)
        await client.confirm_recovery_key()
        return client, recovery.recovery_key

    async def say(self, client, text="said before"):
        room = await client.create_room(RoomSettings())
        return room, await client.send_text(room, text)

    async def verification(self, client, kind):
        """Waits until the client's one verification stands like this."""
        for _ in range(PATIENCE // 50):
            known = await client.verifications()
            if known and isinstance(known[0].state, kind):
                return known[0]
            if known and isinstance(known[0].state, VerificationState.CANCELLED):
                break
            await asyncio.sleep(0.05)
        self.fail(f"not {kind}: {await client.verifications()}")

    async def act(self, client, flow, action):
        await client.act_on_verification(flow.user_id, flow.flow_id, action)

    async def event(self, client, kind):
        """The next event of a kind."""
        while True:
            batch = await client.next_events(PATIENCE)
            self.assertTrue(batch, f"no {kind}")
            for numbered in batch:
                if isinstance(numbered.event, kind):
                    await client.acknowledge(numbered.number)
                    return numbered.event
            await client.acknowledge(batch[-1].number)

    async def state(self, client, *wanted):
        """Follows the states until one of these comes."""
        known = None
        while True:
            state = await client.next_recovery_state(known, PATIENCE)
            if isinstance(state, wanted):
                return state
            self.assertNotEqual(state, known, "no other state came")
            known = state

    async def test_recovery(self):
        user = register("alice")
        first = await self.log_in("first", user)
        self.assertIsInstance(await self.state(first, RecoveryState.DISABLED), RecoveryState.DISABLED)
        room, event = await self.say(first)
        made = await first.enable_recovery(WITH_PASSWORD)
        self.assertNotIn(made.recovery_key, repr(made.left_behind))
        state = await first.recovery_state()
        self.assertEqual(state, RecoveryState.UNCONFIRMED(RecoveryChange.ENABLE))
        again = await first.enable_recovery(WITH_PASSWORD)
        self.assertEqual(again.recovery_key, made.recovery_key)
        await first.confirm_recovery_key()
        self.assertEqual(await first.recovery_state(), RecoveryState.ENABLED())
        await first.wait_for_backup(PATIENCE)

        second = await self.log_in("second", user)
        state = await self.state(second, RecoveryState.INCOMPLETE)
        self.assertIn(RecoverySecret.MASTER_KEY, state.missing.here)
        await self.expect_error(
            HeroldError.RecoverFirst, second.enable_recovery(WITH_PASSWORD), "identity_exists")
        await self.expect_error(HeroldError.AskAgain, second.recover("not a key"), "recovery_key")
        counter = Counter()
        restored = await second.recover(made.recovery_key, counter)
        self.assertEqual((restored.fresh, restored.refused), (1, 0))
        await self.state(second, RecoveryState.ENABLED)
        await self.expect_reads(second, room, event, "said before")
        await until(lambda: counter.told, "nobody was told how far it is")
        self.assertEqual(counter.told[-1], (1, 1))

        changed = await second.change_recovery_key(made.recovery_key, "a passphrase")
        await second.confirm_recovery_key()
        third = await self.log_in("third", user)
        await self.expect_error(
            HeroldError.AskAgain, third.recover(made.recovery_key), "wrong_recovery_key")
        await third.recover("a passphrase")
        self.assertTrue(changed.recovery_key)

        # A reset wants the user to authenticate: first nothing is shown, then the password as a stage.
        error = await self.expect_error(
            HeroldError.Authenticate, third.reset_recovery(Authentication.NOTHING()))
        self.assertEqual([stage.stage for stage in error.challenge.stages], ["m.login.password"])
        await self.expect_error(
            HeroldError.Denied, third.reset_recovery(Authentication.PASSWORD("wrong")), "M_FORBIDDEN")
        self.assertEqual(await third.recovery_state(), RecoveryState.ENABLED())
        answer = Authentication.PASSWORD_STAGE(PASSWORD, error.challenge.session)
        await third.reset_recovery(answer)
        await third.confirm_recovery_key()
        self.assertEqual(await third.recovery_state(), RecoveryState.ENABLED())
        await self.state(first, RecoveryState.INCOMPLETE)

    async def test_room_keys(self):
        user = register("alice")
        first, _ = await self.enabled("first", user)
        room, event = await self.say(first)
        status = await first.backup_status()
        self.assertTrue(status.known and status.enabled and status.has_key)
        await first.wait_for_backup(PATIENCE)
        self.assertEqual((await first.backup_status()).pending, 0)
        counter = Counter()
        restored = await first.restore_backup(counter)
        self.assertEqual((restored.fresh, restored.known), (0, 1))

        path = os.path.join(self.folder, "keys.txt")
        self.assertEqual(await first.export_keys(path, "file passphrase", counter), 1)
        await self.expect_error(HeroldError.FixInput, first.export_keys(path, "file passphrase"))
        second = await self.log_in("second", user)
        await self.expect_error(HeroldError.RecoverFirst, second.restore_backup(), "no_backup_key")
        await self.expect_error(HeroldError.AskAgain, second.import_keys(path, "wrong"), "key_file")
        self.assertEqual((await second.import_keys(path, "file passphrase")).fresh, 1)
        await self.expect_reads(second, room, event, "said before")

        everything = Retention(lifetimes=Lifetimes(room_keys=0, events=0))
        self.assertGreaterEqual((await second.would_forget(everything)).events, 1)
        self.assertGreaterEqual((await second.forget(everything)).events, 1)
        self.assertEqual(await second.timeline(room, 10), [])

        await second.suspend()
        await self.expect_error(HeroldError.RetryLater, second.rooms(), "store_suspended")
        await second.unsuspend()
        self.assertTrue(await second.rooms())
        await second.close()
        self.clients.remove(second)
        path = f"{self.folder}/second"
        await self.expect_error(
            HeroldError.AskForStoreKey, herold.rekey_store(path, key_of("x"), key_of("y")))
        await herold.rekey_store(path, key_of("second"), key_of("new"))
        await self.expect_error(HeroldError.AskForStoreKey, self.resume("second"))
        # Two processes of an app, in turns.
        shared = {"store_key": key_of("new"), "shared_store": True}
        app, extension = await self.resume("second", **shared), await self.resume("second", **shared)
        self.assertEqual(await app.rooms(), await extension.rooms())

    async def test_a_dehydrated_device(self):
        alice_id = register("alice")
        bob = await self.log_in("bob", register("bob"))
        first, key = await self.enabled("first", alice_id)
        self.assertFalse((await first.dehydration_status()).enabled)
        await self.expect_error(
            HeroldError.AskAgain, first.start_dehydration(), "no_dehydration_key")
        await self.expect_error(HeroldError.AskAgain, first.start_dehydration("wrong"))
        self.assertIsNone(await first.start_dehydration(key))
        status = await first.dehydration_status()
        self.assertEqual((status.enabled, status.has_key, status.busy), (True, True, False))
        self.assertTrue(status.device_id)

        # Nobody is there when it is said.
        room = await self.bring_together(bob, first)
        await first.log_out()
        event = await bob.send_text(room, "while you were away")
        second = await self.log_in("second", alice_id)
        await self.expect_error(HeroldError.RecoverFirst, second.rehydrate())
        await second.recover(key)
        await self.expect_reads(second, room, event, "while you were away")
        await second.stop_dehydration()
        self.assertFalse((await second.dehydration_status()).enabled)
        self.assertIsNone(await second.rehydrate())

    async def test_comparing(self):
        user = register("alice")
        first, _ = await self.enabled("first", user)
        second = await self.log_in("second", user)
        flow_id = await second.request_verification(user, [first.device_id()])
        flow = await self.verification(first, VerificationState.REQUESTED)
        self.assertEqual((flow.flow_id, flow.asked_by_us), (flow_id, False))
        moved = await self.event(first, Event.VERIFICATION_MOVED)
        self.assertEqual((moved.user_id, moved.flow_id), (user, flow_id))
        await self.act(first, flow, VerificationAction.ACCEPT)
        flow = await self.verification(second, VerificationState.READY)
        self.assertTrue(flow.can_compare and flow.can_scan_code)
        await self.act(second, flow, VerificationAction.START_COMPARING)
        ours = (await self.verification(first, VerificationState.COMPARE)).state
        theirs = (await self.verification(second, VerificationState.COMPARE)).state
        self.assertEqual((ours.emoji, ours.decimals), (theirs.emoji, theirs.decimals))
        self.assertEqual((len(ours.emoji), len(ours.decimals)), (7, 3))
        self.assertEqual(herold.emoji_name(ours.emoji[0].number, "en"), ours.emoji[0].name)
        self.assertEqual(herold.emoji_name(0, "de"), "Hund")
        self.assertIsNone(herold.emoji_name(64, "en"))
        for client in (first, second):
            await self.act(client, flow, VerificationAction.CONFIRM)
        for client in (first, second):
            await self.verification(client, VerificationState.DONE)
        # The secrets follow by themselves.
        await self.state(second, RecoveryState.ENABLED)
        known = {device.device_id: device for device in (await first.devices(user)).devices}
        self.assertTrue(known[second.device_id()].verified)
        await self.expect_error(
            HeroldError.NotFound, first.verification(user, "nothing"), "unknown_verification")

    async def test_scanning(self):
        user = register("alice")
        first, _ = await self.enabled("first", user)
        second = await self.log_in("second", user)
        await second.request_verification(user)
        flow = await self.verification(first, VerificationState.REQUESTED)
        await self.act(first, flow, VerificationAction.ACCEPT)
        await self.verification(second, VerificationState.READY)
        code = await first.show_verification_code(user, flow.flow_id)
        self.assertTrue(code.startswith(b"MATRIX"))
        await self.expect_error(
            HeroldError.FixInput, second.scan_verification_code(user, flow.flow_id, b"nonsense"))
        await second.scan_verification_code(user, flow.flow_id, code)
        await self.verification(first, VerificationState.SCANNED)
        await self.act(first, flow, VerificationAction.CONFIRM)
        for client in (first, second):
            await self.verification(client, VerificationState.DONE)

    async def test_devices_and_identities(self):
        alice = await self.log_in("alice", register("alice"))
        bob_id = register("bob")
        bob, _ = await self.enabled("bob", bob_id)
        room = await self.bring_together(alice, bob)
        event = await bob.send_text(room, "hello")
        await self.expect_reads(alice, room, event, "hello")
        self.assertEqual((await alice.devices(bob_id)).identity, IdentityState.PINNED)
        tablet = await self.log_in("tablet", bob_id)
        came = await self.event(alice, Event.DEVICES_CHANGED)
        self.assertEqual((came.user_id, came.added, came.removed), (bob_id, [tablet.device_id()], []))
        await alice.set_blocked(bob_id, tablet.device_id(), True)
        blocked = {d.device_id for d in (await alice.devices(bob_id)).devices if d.blocked}
        self.assertEqual(blocked, {tablet.device_id()})
        await self.expect_error(
            HeroldError.NotFound, alice.set_blocked(bob_id, "NOTHING", True), "unknown_device")
        await bob.delete_device(tablet.device_id(), WITH_PASSWORD)
        gone = await self.event(alice, Event.DEVICES_CHANGED)
        self.assertEqual((gone.added, gone.removed), ([], [tablet.device_id()]))

        await bob.reset_recovery(WITH_PASSWORD)
        moved = await self.event(alice, Event.IDENTITY_MOVED)
        self.assertEqual(
            (moved.user_id, moved.before, moved.state, moved.new_keys),
            (bob_id, IdentityState.PINNED, IdentityState.CHANGED, True))
        await alice.accept_identity(bob_id)
        self.assertEqual((await alice.devices(bob_id)).identity, IdentityState.PINNED)
        moved = await self.event(alice, Event.IDENTITY_MOVED)
        self.assertEqual((moved.state, moved.new_keys), (IdentityState.PINNED, False))
        await self.expect_error(HeroldError.FixInput, bob.accept_identity("@nobody:herold.test"))
        await self.expect_error(
            HeroldError.FixInput, bob.withdraw_verification("@nobody:herold.test"))

    async def test_history(self):
        alice, _ = await self.enabled("alice", register("alice"))
        bob, _ = await self.enabled("bob", register("bob"))
        room, event = await self.say(alice)
        shared = await alice.invite_with_history(room, bob.user_id())
        self.assertEqual(shared, SharedHistory.KEYS(1))
        await bob.wait_for_member(room, bob.user_id(), Membership.INVITE, PATIENCE)
        await bob.join(room)
        read = await self.expect_reads(bob, room, event, "said before")
        self.assertEqual(read.shared_by, alice.user_id())
        self.assertTrue(read.shield.is_grey())
