"""The story of `examples/demo.rs`: two branded messengers talk, encrypted; one is killed and comes back;
a device is added; a member is removed."""
import asyncio
import os
import pathlib
import signal
import subprocess
import sys

from herold import Content, HeroldError, Membership, WhyUnreadable

from support import HOMESERVER, PASSWORD, PATIENCE, Case, brand, register, request

FILE_NAME = "duty-roster.txt"
FILE = b"Monday: Alice. Tuesday: Bob."
CRASH = "Sent through a crash."
SECRETS = ["Good morning", "through a crash", "tablet, too", "cannot read", FILE_NAME, "Monday: Alice"]


class Story(Case):
    async def test_two_messengers_talk(self):
        ministry, hospital = brand("Amtsbote"), brand("Klinikfunk")
        alice_id, bob_id, carol_id = register("alice"), register("bob"), register("carol")
        alice = await self.log_in("alice", alice_id, ministry)
        bob = await self.log_in("bob", bob_id, hospital)
        carol = await self.log_in("carol", carol_id, hospital)
        room = await self.bring_together(alice, bob, carol)

        # Messages and a file go both ways.
        hello = await alice.send_text(room, "Good morning, ward 3.")
        answer = await bob.send_text(room, "Good morning, ministry.")
        file = await alice.send_file(room, FILE_NAME, "text/plain", FILE)
        await self.expect_reads(bob, room, hello, "Good morning, ward 3.")
        await self.expect_reads(carol, room, answer, "Good morning, ministry.")
        await self.expect_reads(alice, room, answer, "Good morning, ministry.")
        event = await bob.wait_for_event(room, file, PATIENCE)
        self.assertIsInstance(event.content, Content.FILE)
        self.assertEqual((event.content.name, event.content.size), (FILE_NAME, len(FILE)))
        download = await bob.download(room, file)
        self.assertEqual((download.data, download.name), (FILE, FILE_NAME))

        # Alice's app is killed with a message in its queue, and comes back.
        device = alice.device_id()
        await alice.close()
        killed = subprocess.run(
            [sys.executable, "killed.py", self.folder, "alice", room, CRASH],
            stdout=subprocess.PIPE, timeout=PATIENCE / 1000, check=False)
        self.assertEqual(killed.returncode, -signal.SIGKILL)
        self.assertEqual(killed.stdout.decode().strip(), device)
        alice = await self.resume("alice", ministry)
        await alice.start_sync()
        self.assertEqual(alice.device_id(), device)
        crash = await self.find(bob, room, CRASH)

        # Bob adds a tablet.
        tablet = await self.log_in("tablet", bob_id, hospital)
        for _ in range(100):
            if len((await alice.devices(bob_id)).devices) == 2:
                break
            await asyncio.sleep(0.1)
        to_tablet = await alice.send_text(room, "Hello to the tablet, too.")
        before_removal = await self.expect_reads(tablet, room, to_tablet, "Hello to the tablet, too.")
        old = await tablet.wait_for_event(room, hello, 3_000)
        self.assertIsInstance(old.content, Content.UNREADABLE)
        reasons = (WhyUnreadable.MISSING_KEY, WhyUnreadable.INDEX_TOO_EARLY)
        self.assertIsInstance(old.content.reason, reasons)

        # Carol is removed.
        await alice.kick(room, carol_id)
        await carol.wait_for_member(room, carol_id, Membership.LEAVE, PATIENCE)
        after = await alice.send_text(room, "Carol cannot read this.")
        after_removal = await self.expect_reads(bob, room, after, "Carol cannot read this.")
        self.assertNotEqual(before_removal.session_id, after_removal.session_id)
        members = {member.user_id: member.membership for member in await alice.members(room)}
        self.assertEqual(members[bob_id], Membership.JOIN)
        self.assertNotEqual(members.get(carol_id), Membership.JOIN)
        try:
            seen = await carol.fetch_event(room, after)
            self.assertIsInstance(seen.content, Content.UNREADABLE)
        except (HeroldError.Denied, HeroldError.NotFound):
            pass  # The homeserver does not even give it out.

        # What the homeserver has, and what is on the disks.
        self.in_no_clear_on_the_server(alice_id, room, [hello, answer, file, crash, to_tablet, after])
        for client in self.clients:
            await client.close()
        for path in pathlib.Path(self.folder).glob("*/*"):
            content = path.read_bytes()
            for secret in SECRETS:
                self.assertNotIn(secret.encode(), content, path)

    async def find(self, client, room, text):
        """The one event that says this."""
        for _ in range(PATIENCE // 100):
            found = [
                event.event_id for event in await client.timeline(room, 50)
                if isinstance(event.content, Content.TEXT) and event.content.body == text
            ]
            if found:
                self.assertEqual(len(found), 1, "it came twice")
                return found[0]
            await asyncio.sleep(0.1)
        self.fail(f"{text!r} never came")

    def in_no_clear_on_the_server(self, user, room, events):
        login = {
            "type": "m.login.password", "password": PASSWORD,
            "identifier": {"type": "m.id.user", "user": user},
        }
        token = request("POST", "/_matrix/client/v3/login", login)["access_token"]
        for event_id in events:
            path = f"/_matrix/client/v3/rooms/{room}/event/{event_id}"
            event = request("GET", path, token=token)
            self.assertEqual(event["type"], "m.room.encrypted")
            self.assertEqual(event["content"]["algorithm"], "m.megolm.v1.aes-sha2")
            for secret in SECRETS:
                self.assertNotIn(secret, str(event))

    async def test_the_script_of_the_readme(self):
        alice, bob = register("alice"), register("bob")
        lines = pathlib.Path("hello.py").read_text().splitlines()
        self.assertLessEqual(len(lines), 30)
        environment = dict(os.environ, ALICE_PASSWORD=PASSWORD, BOB_PASSWORD=PASSWORD)
        run = await asyncio.to_thread(
            subprocess.run, [sys.executable, "hello.py", HOMESERVER, alice, bob],
            env=environment, stdout=subprocess.PIPE, timeout=120, check=True)
        self.assertEqual(run.stdout.decode().strip(), f"{alice} says encrypted: Hello Bob")

    async def test_events_are_numbered_and_stay_until_acknowledged(self):
        alice = await self.log_in("alice", register("alice"))
        bob = await self.log_in("bob", register("bob"))
        room = await self.bring_together(alice, bob)
        sent = await alice.send_text(room, "one")
        texts = []
        while "one" not in texts:
            batch = await bob.next_events(PATIENCE)
            self.assertTrue(batch, "the message never came")
            again = await bob.next_events(PATIENCE)
            self.assertEqual([e.number for e in batch], [e.number for e in again][:len(batch)])
            self.assertEqual(sorted(e.number for e in batch), [e.number for e in batch])
            for event in (numbered.event for numbered in batch):
                if event.is_came() or event.is_became_readable():
                    if isinstance(event.event.content, Content.TEXT):
                        self.assertEqual(event.event.event_id, sent)
                        self.assertEqual(event.event.sender, alice.user_id())
                        self.assertTrue(event.event.shield.is_grey() or event.event.shield.is_red())
                        texts.append(event.event.content.body)
            await bob.acknowledge(batch[-1].number)
        queued = await alice.queue_text(room, "two")
        while True:
            batch = await alice.next_events(PATIENCE)
            self.assertTrue(batch, "nothing says that it was sent")
            await alice.acknowledge(batch[-1].number)
            if any(e.event.is_sent() and e.event.txn_id == queued for e in batch):
                break
        await asyncio.sleep(0)
        names = [r.room_id for r in await bob.rooms() if r.encrypted]
        self.assertEqual(names, [room])
