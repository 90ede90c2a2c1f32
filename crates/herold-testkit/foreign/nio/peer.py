"""One Matrix device on matrix-nio, driven by JSON lines on stdin and stdout.

nio knows neither cross-signing nor key backup, and gives every device of a room the key.
HEROLD_PEER_LOG=1 puts nio's log on stderr.
"""

import asyncio
import base64
import hashlib
import io
import json
import logging
import os
import sys
import time
from importlib.metadata import version

import nio
from nio.crypto import decrypt_attachment, key_export

# The same derivation, which takes minutes in nio's own Python for as many rounds as others use.
key_export.PBKDF2 = lambda phrase, salt, size, rounds, _prf: hashlib.pbkdf2_hmac("sha512", phrase, salt, rounds, size)

PAUSE_S = 0.04
DEFAULT_WAIT_MS = 20_000
REFETCH_S = 2.0


class Unsupported(Exception):
    pass


def accepted(response):
    """The response, unless the server (or nio) said no."""
    if isinstance(response, nio.ErrorResponse):
        raise RuntimeError(f"{type(response).__name__}: {response.message}")
    return response


async def poll(what, ms, probe):
    """Calls `probe` until it gives something true, or fails with a `timeout` error."""
    deadline = time.monotonic() + (DEFAULT_WAIT_MS if ms is None else ms) / 1000
    while not (found := probe()):
        if time.monotonic() >= deadline:
            raise TimeoutError(f"timeout: {what}")
        await asyncio.sleep(PAUSE_S)
    return found


class Device:
    """The commands are the methods without a leading underscore."""

    def __init__(self):
        self._matrix = None
        self._syncing = None
        self._timeline = {}

    async def hello(self):
        features = ["files", "delete_device", "key_files"]
        return {"protocol": 1, "name": "matrix-nio", "version": version("matrix-nio"), "features": features}

    # Session.

    async def login(self, homeserver, user, password, store, device_name="matrix-nio"):
        settings = nio.AsyncClientConfig(encryption_enabled=True, store_sync_tokens=True, max_timeouts=2)
        self._matrix = nio.AsyncClient(homeserver, user, store_path=store, config=settings)
        self._matrix.add_event_callback(self._remember, nio.Event)
        accepted(await self._matrix.login(password, device_name))
        began = time.monotonic()
        accepted(await self._matrix.sync(timeout=0, full_state=True))
        sync_ms = int((time.monotonic() - began) * 1000)
        if self._matrix.should_upload_keys:
            accepted(await self._matrix.keys_upload())
        self._syncing = asyncio.create_task(self._sync())
        return {"user_id": self._matrix.user_id, "device_id": self._matrix.device_id, "sync_ms": sync_ms}

    async def close(self):
        if self._syncing:
            self._syncing.cancel()
            await self._matrix.close()
        return {}

    async def _sync(self):
        while True:
            try:
                await self._matrix.sync_forever(timeout=3000)
            except Exception as error:  # a cancellation is not one, and ends the task
                logging.warning("sync: %r", error)
                await asyncio.sleep(0.5)

    async def _remember(self, room, event):
        event.room_id = room.room_id
        self._timeline[event.event_id] = event

    # Rooms.

    async def create_room(self, invite, direct=False, rotation_msgs=None):
        if rotation_msgs is not None:
            raise Unsupported("nio does not heed rotation_period_msgs")
        encryption = {"algorithm": "m.megolm.v1.aes-sha2"}
        state = [{"type": "m.room.encryption", "state_key": "", "content": encryption}]
        preset = nio.RoomPreset.trusted_private_chat if direct else nio.RoomPreset.private_chat
        made = accepted(
            await self._matrix.room_create(preset=preset, invite=invite, is_direct=direct, initial_state=state)
        )
        await self._in_room(made.room_id)
        return {"room": made.room_id}

    async def _in_room(self, room):
        await poll(f"joined and encrypted: {room}", None, lambda: (r := self._matrix.rooms.get(room)) and r.encrypted)

    async def invite(self, room, user):
        accepted(await self._matrix.room_invite(room, user))
        return {}

    async def kick(self, room, user):
        accepted(await self._matrix.room_kick(room, user))
        return {}

    async def leave(self, room):
        accepted(await self._matrix.room_leave(room))
        return {}

    async def join(self, room):
        accepted(await self._matrix.join(room))
        await self._in_room(room)
        return {}

    def _membership(self, room, user):
        if user == self._matrix.user_id and room in self._matrix.invited_rooms:
            return "invite"
        known = self._matrix.rooms.get(room)
        if known is None or user not in known.users:
            return "leave"
        return "invite" if user in known.invited_users else "join"

    async def wait_member(self, room, user, membership, timeout_ms=None):
        await poll(f"{user} is {membership}", timeout_ms, lambda: self._membership(room, user) == membership)
        return {}

    # Messages.

    async def _send(self, room, content):
        sent = accepted(
            await self._matrix.room_send(room, "m.room.message", content, ignore_unverified_devices=True)
        )
        return {"event_id": sent.event_id}

    async def send(self, room, body):
        return await self._send(room, {"msgtype": "m.text", "body": body})

    async def _locate(self, room, event_id, ms):
        """The event, from sync or fetched, decrypted if that works in time; and why not."""
        deadline = time.monotonic() + (DEFAULT_WAIT_MS if ms is None else ms) / 1000
        fetch_at = time.monotonic() + REFETCH_S
        reason = None
        while True:
            event = self._timeline.get(event_id)
            if event is None and time.monotonic() >= fetch_at:
                fetch_at = time.monotonic() + REFETCH_S
                fetched = await self._matrix.room_get_event(room, event_id)
                if isinstance(fetched, nio.RoomGetEventResponse):
                    event = fetched.event
                    event.room_id = room
            if isinstance(event, nio.MegolmEvent):
                try:
                    event = self._matrix.decrypt_event(event)
                except nio.EncryptionError as error:
                    reason = str(error)
            if event is not None:
                self._timeline[event_id] = event
                if not isinstance(event, nio.MegolmEvent):
                    return event, None
            if time.monotonic() >= deadline:
                if event is None:
                    raise TimeoutError(f"timeout: event {event_id}")
                return event, reason or "unknown"
            await asyncio.sleep(PAUSE_S)

    async def wait_message(self, room, event_id, timeout_ms=None):
        event, reason = await self._locate(room, event_id, timeout_ms)
        content = {} if reason else event.source["content"]
        return {
            "event_id": event.event_id,
            "sender": event.sender,
            "encrypted": bool(reason or event.decrypted),
            "decrypted": not reason,
            "session_id": event.session_id,
            "body": content.get("body"),
            "msgtype": content.get("msgtype"),
            "shield": None,
            "shield_reason": None,
            "sender_device": None,
            "utd": reason,
        }

    async def send_file(self, room, name, mimetype, data):
        clear = base64.b64decode(data)
        uploaded, file = await self._matrix.upload(
            io.BytesIO(clear), content_type="application/octet-stream", encrypt=True, filesize=len(clear)
        )
        file["url"] = accepted(uploaded).content_uri
        info = {"mimetype": mimetype, "size": len(clear)}
        content = {"msgtype": "m.file", "body": name, "filename": name, "info": info, "file": file}
        return await self._send(room, content)

    async def download(self, room, event_id, timeout_ms=None):
        event, reason = await self._locate(room, event_id, timeout_ms)
        if reason:
            raise RuntimeError(f"the event is not readable: {reason}")
        content = event.source["content"]
        file = content["file"]
        locked = accepted(await self._matrix.download(mxc=file["url"]))
        clear = decrypt_attachment(locked.body, file["key"]["k"], file["hashes"]["sha256"], file["iv"])
        return {
            "data": base64.b64encode(clear).decode(),
            "name": content.get("filename", content["body"]),
            "mimetype": content.get("info", {}).get("mimetype"),
        }

    # Devices.

    async def devices(self, user):
        await poll("no key query waiting", 5000, lambda: not self._matrix.olm.users_for_key_query)
        known = self._matrix.device_store.active_user_devices(user)
        found = [{"device": d.id, "verified": d.verified, "cross_signed": None} for d in known]
        return {"identity": None, "devices": found}

    # Key files. nio would encode a passphrase as Latin-1, so it is given bytes.

    async def export_keys(self, path, passphrase):
        await self._matrix.export_keys(path, passphrase.encode())
        return {"count": sum(1 for _ in self._matrix.olm.inbound_group_store)}

    async def import_keys(self, path, passphrase):
        before = sum(1 for _ in self._matrix.olm.inbound_group_store)
        await self._matrix.import_keys(path, passphrase.encode())
        return {"imported": sum(1 for _ in self._matrix.olm.inbound_group_store) - before, "refused": 0}

    async def delete_device(self, device, password):
        answer = await self._matrix.delete_devices([device])
        if isinstance(answer, nio.DeleteDevicesAuthResponse):
            identifier = {"type": "m.id.user", "user": self._matrix.user_id}
            auth = {"type": "m.login.password", "identifier": identifier, "password": password}
            answer = await self._matrix.delete_devices([device], {**auth, "session": answer.session})
        accepted(answer)
        return {}


async def answer(device, request):
    number, name = request.pop("id"), request.pop("cmd")
    try:
        command = None if name.startswith("_") else getattr(device, name, None)
        if command is None:
            raise Unsupported(f"no command {name}")
        return {"id": number, "ok": True, "result": await command(**request)}
    except Exception as error:
        logging.info("%s", name, exc_info=True)
        told = {"id": number, "ok": False, "error": str(error) or repr(error)}
        return {**told, "unsupported": True} if isinstance(error, Unsupported) else told


async def main():
    logging.basicConfig(level=logging.DEBUG if os.environ.get("HEROLD_PEER_LOG") else logging.CRITICAL)
    device = Device()
    lines = asyncio.StreamReader(limit=64 << 20)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        request = json.loads(line)
        last = request["cmd"] == "close"
        print(json.dumps(await answer(device, request)), flush=True)
        if last:
            return


asyncio.run(main())
