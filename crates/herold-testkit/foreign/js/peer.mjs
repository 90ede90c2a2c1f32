// One Matrix device on matrix-js-sdk, driven by JSON lines on stdin and stdout.
//
// The crypto store is an in-memory IndexedDB: the device lives as long as the process, so there is
// no `resume`. HEROLD_PEER_LOG=1 puts the SDK's log on stderr.
import { readFile, writeFile } from "node:fs/promises";
import readline from "node:readline";
import "fake-indexeddb/auto";

const quiet = !process.env.HEROLD_PEER_LOG;
for (const level of ["trace", "debug", "log", "info", "warn", "error"]) {
    console[level] = (...parts) => quiet || process.stderr.write(parts.join(" ") + "\n");
}

const { createClient, ClientEvent } = await import("matrix-js-sdk");
const { CryptoEvent, VerificationPhase, decodeRecoveryKey } = await import("matrix-js-sdk/lib/crypto-api/index.js");
const { logger } = await import("matrix-js-sdk/lib/logger.js");
const { Attachment, EncryptedAttachment, OlmMachine } = await import("@matrix-org/matrix-sdk-crypto-wasm");
logger.setLevel(quiet ? "silent" : "debug", false);

const FEATURES = ["files", "delete_device", "custom", "cross_signing", "backup", "gossip", "sas_room", "sas_device", "sas_self", "qr", "key_files", "history", "dehydration"];
const DEHYDRATION_KEY = "org.matrix.msc3814";
const KEY_FILE_ROUNDS = 100_000;
const PAUSE_MS = 40;
const DEFAULT_WAIT_MS = 20_000;
const REFETCH_MS = 2_000;

class Unsupported extends Error {}

/** Calls `probe` until it gives something, or fails with a `timeout` error. */
async function poll(what, ms, probe) {
    const deadline = performance.now() + (ms ?? DEFAULT_WAIT_MS);
    for (;;) {
        const found = await probe();
        if (found) return found;
        if (performance.now() >= deadline) throw new Error(`timeout: ${what}`);
        await new Promise((wake) => setTimeout(wake, PAUSE_MS));
    }
}

let matrix; // the logged-in client
let own; // { homeserver, user, device, token }
let storageKey; // the key that the user would have typed
const flows = new Map(); // verification requests, by their ids

const userLogin = (user, password) => ({
    type: "m.login.password",
    identifier: { type: "m.id.user", user },
    password,
});

async function login({ homeserver, user, password, device_name }) {
    const anonymous = createClient({ baseUrl: homeserver });
    const answer = await anonymous.loginRequest({
        ...userLogin(user, password),
        initial_device_display_name: device_name ?? "matrix-js-sdk",
    });
    own = { homeserver, user: answer.user_id, device: answer.device_id, token: answer.access_token };
    matrix = createClient({
        baseUrl: homeserver,
        userId: own.user,
        deviceId: own.device,
        accessToken: own.token,
        cryptoCallbacks: {
            getSecretStorageKey: async ({ keys }) => storageKey && [Object.keys(keys)[0], storageKey],
            cacheSecretStorageKey: (_id, _info, key) => void (storageKey = key),
        },
        verificationMethods: ["m.sas.v1", "m.qr_code.show.v1", "m.qr_code.scan.v1", "m.reciprocate.v1"],
    });
    await matrix.initRustCrypto();
    matrix.on(CryptoEvent.VerificationRequestReceived, (request) => flows.set(request.transactionId, request));

    const began = performance.now();
    const prepared = new Promise((done) => {
        matrix.on(ClientEvent.Sync, (state) => state === "PREPARED" && done());
    });
    await matrix.startClient({ initialSyncLimit: 50, pollTimeout: 5_000 });
    await prepared;
    const sync_ms = Math.round(performance.now() - began);

    await poll("own device keys on the server", undefined, async () => {
        const { device_keys } = await matrix.downloadKeysForUsers([own.user]);
        return device_keys?.[own.user]?.[own.device];
    });
    return { user_id: own.user, device_id: own.device, sync_ms };
}

const membership = (room, user) => matrix.getRoom(room)?.getMember(user)?.membership ?? "leave";

const inRoom = (room) =>
    poll(`joined and encrypted: ${room}`, undefined, async () => {
        const here = matrix.getRoom(room)?.getMyMembership() === "join";
        return here && (await matrix.getCrypto().isEncryptionEnabledInRoom(room));
    });

const unreadable = (event) => event.isEncrypted() && (event.isDecryptionFailure() || !event.getClearContent());

/** The event, from the timeline or fetched, as decrypted as it gets before the time is up. */
async function locate(room, id, ms) {
    let event;
    let fetchAt = performance.now() + REFETCH_MS;
    const step = async () => {
        event = matrix.getRoom(room)?.findEventById(id) ?? event;
        if (!event && performance.now() > fetchAt) {
            fetchAt = performance.now() + REFETCH_MS;
            const raw = await matrix.fetchRoomEvent(room, id).catch(() => undefined);
            if (raw) event = matrix.getEventMapper()({ ...raw, room_id: room });
        }
        if (!event) return undefined;
        if (!unreadable(event)) return event;
        if (!event.isBeingDecrypted()) await event.attemptDecryption(matrix.getCrypto(), { isRetry: true });
        return unreadable(event) ? undefined : event;
    };
    try {
        return await poll(`event ${id}`, ms, step);
    } catch (error) {
        if (event) return event;
        throw error;
    }
}

async function message(event) {
    const lost = unreadable(event);
    const shield = lost ? null : await matrix.getCrypto().getEncryptionInfoForEvent(event);
    const wire = event.getWireContent();
    const content = lost ? null : event.getContent();
    return {
        event_id: event.getId(),
        sender: event.getSender(),
        type: lost ? null : event.getType(),
        content,
        encrypted: event.isEncrypted(),
        decrypted: !lost,
        session_id: wire.session_id ?? null,
        sender_device: wire.device_id ?? null,
        body: content?.body ?? null,
        msgtype: content?.msgtype ?? null,
        shield: shield ? (["none", "grey", "red"][shield.shieldColour] ?? null) : null,
        shield_reason: shield?.shieldReason == null ? null : String(shield.shieldReason),
        utd: lost ? String(event.decryptionFailureReason ?? "unknown") : null,
    };
}

const nothing = async (promise) => {
    await promise;
    return {};
};

const withPassword = (password) => async (request) => {
    try {
        return await request(null);
    } catch (challenge) {
        if (challenge.httpStatus !== 401) throw challenge;
        return request({ ...userLogin(own.user, password), session: challenge.data.session });
    }
};

/** The request, unless it was cancelled. */
function flow(id) {
    const request = flows.get(id);
    if (!request) throw new Error(`no flow ${id}`);
    if (request.phase === VerificationPhase.Cancelled) throw new Error(`cancelled: ${request.cancellationCode}`);
    return request;
}

/** The verifier once there is one; who has asked begins. */
const verifier = (id, ms) =>
    poll(`the start of ${id}`, ms, async () => {
        const request = flow(id);
        if (request.phase !== VerificationPhase.Ready || !request.initiatedByMe) return request.verifier;
        return request.startVerification("m.sas.v1");
    });

const commands = {
    hello: () => ({ protocol: 1, name: "matrix-js-sdk", version: "43.0.0", features: FEATURES }),
    login,
    close() {
        matrix?.stopClient();
        setTimeout(() => process.exit(0), 20);
        return {};
    },

    async create_room({ invite, direct, rotation_msgs }) {
        const encryption = { algorithm: "m.megolm.v1.aes-sha2" };
        if (rotation_msgs) encryption.rotation_period_msgs = rotation_msgs;
        const { room_id } = await matrix.createRoom({
            preset: direct ? "trusted_private_chat" : "private_chat",
            is_direct: Boolean(direct),
            invite,
            initial_state: [{ type: "m.room.encryption", state_key: "", content: encryption }],
        });
        await inRoom(room_id);
        return { room: room_id };
    },
    // It shares a room's history with every invitation, and takes what is shared with every joining.
    invite: ({ room, user }) => nothing(matrix.invite(room, user)),
    kick: ({ room, user }) => nothing(matrix.kick(room, user)),
    leave: ({ room }) => nothing(matrix.leave(room)),
    join: ({ room }) => nothing(matrix.joinRoom(room).then(() => inRoom(room))),
    wait_member: ({ room, user, membership: wanted, timeout_ms }) =>
        nothing(poll(`${user} is ${wanted}`, timeout_ms, () => membership(room, user) === wanted)),

    send: async ({ room, body }) => ({ event_id: (await matrix.sendTextMessage(room, body)).event_id }),
    send_event: async ({ room, type, content }) => ({ event_id: (await matrix.sendEvent(room, type, content)).event_id }),
    wait_message: async ({ room, event_id, timeout_ms }) => message(await locate(room, event_id, timeout_ms)),
    event: async ({ room, event_id }) => message(await locate(room, event_id, 0)),

    async send_file({ room, name, mimetype, data }) {
        const clear = Buffer.from(data, "base64");
        const locked = Attachment.encrypt(new Uint8Array(clear));
        const file = JSON.parse(locked.mediaEncryptionInfo);
        const upload = await matrix.uploadContent(Buffer.from(locked.encryptedData), {
            type: "application/octet-stream",
            includeFilename: false,
        });
        file.url = upload.content_uri;
        const info = { mimetype, size: clear.length };
        const sent = await matrix.sendMessage(room, { msgtype: "m.file", body: name, filename: name, info, file });
        return { event_id: sent.event_id };
    },
    async download({ room, event_id, timeout_ms }) {
        const event = await locate(room, event_id, timeout_ms);
        if (unreadable(event)) throw new Error(`the event is not readable: ${event.decryptionFailureReason}`);
        const { body, filename, info, file } = event.getContent();
        const url = matrix.mxcUrlToHttp(file.url, undefined, undefined, undefined, undefined, true, true);
        const answer = await fetch(url, { headers: { authorization: `Bearer ${own.token}` } });
        if (!answer.ok) throw new Error(`download: HTTP ${answer.status}`);
        const locked = new EncryptedAttachment(new Uint8Array(await answer.arrayBuffer()), JSON.stringify(file));
        const data = Buffer.from(Attachment.decrypt(locked)).toString("base64");
        return { data, name: filename ?? body, mimetype: info?.mimetype ?? null };
    },

    async devices({ user }) {
        const crypto = matrix.getCrypto();
        const identity = await crypto.userHasCrossSigningKeys(user, true);
        const known = (await crypto.getUserDeviceInfo([user], true)).get(user) ?? new Map();
        const devices = [];
        for (const device of known.keys()) {
            const status = await crypto.getDeviceVerificationStatus(user, device);
            devices.push({ device, verified: status?.isVerified() ?? false, cross_signed: status?.signedByOwner ?? null });
        }
        const verified = identity && (await crypto.getUserVerificationStatus(user)).isCrossSigningVerified();
        return { identity: identity ? { verified } : null, devices };
    },
    delete_device: ({ device, password }) =>
        nothing(withPassword(password)((auth) => matrix.deleteDevice(device, auth ?? undefined))),

    async bootstrap({ password }) {
        const crypto = matrix.getCrypto();
        await crypto.bootstrapCrossSigning({ authUploadDeviceSigningKeys: withPassword(password) });
        const key = await crypto.createRecoveryKeyFromPassphrase();
        await crypto.bootstrapSecretStorage({
            createSecretStorageKey: async () => key,
            setupNewSecretStorage: true,
            setupNewKeyBackup: true,
        });
        await crypto.checkKeyBackupAndEnable();
        return { recovery_key: key.encodedPrivateKey, backup_version: await crypto.getActiveSessionBackupVersion() };
    },
    async recover({ recovery_key }) {
        storageKey = decodeRecoveryKey(recovery_key);
        const crypto = matrix.getCrypto();
        // The public keys have to be there first: without them the private ones are silently not taken.
        await crypto.userHasCrossSigningKeys(own.user, true);
        await crypto.bootstrapCrossSigning({});
        await crypto.loadSessionBackupPrivateKeyFromSecretStorage();
        await crypto.checkKeyBackupAndEnable();
        const { imported } = await crypto.restoreKeyBackup();
        // As Element does it for who has one: what was sent to the dehydrated device is taken, and a new one made.
        if (await matrix.secretStorage.isStored(DEHYDRATION_KEY)) await crypto.startDehydration();
        return { imported };
    },
    // It reads the one that is there, and makes a new one each time.
    async dehydration_start({ recovery_key }) {
        storageKey = decodeRecoveryKey(recovery_key);
        await matrix.getCrypto().startDehydration();
        const { device_id } = await matrix.http.authedRequest("GET", "/dehydrated_device", undefined, undefined, {
            prefix: "/_matrix/client/unstable/org.matrix.msc3814.v1",
        });
        return { device: device_id };
    },
    logout: () => nothing(matrix.logout(true)),
    wait_backup: ({ timeout_ms }) =>
        nothing(
            poll("every key in the backup", timeout_ms, async () => {
                const version = await matrix.getCrypto().getActiveSessionBackupVersion();
                const { total, backedUp } = await matrix.getCrypto().olmMachine.roomKeyCounts();
                return version && backedUp === total;
            }),
        ),
    async restore_backup({ timeout_ms }) {
        const crypto = matrix.getCrypto();
        await poll("the backup's key", timeout_ms, () => crypto.getSessionBackupPrivateKey());
        await crypto.checkKeyBackupAndEnable();
        return { imported: (await crypto.restoreKeyBackup()).imported };
    },

    async sas_request({ user, device, room }) {
        const crypto = matrix.getCrypto();
        await crypto.userHasCrossSigningKeys(user, true);
        await crypto.getUserDeviceInfo([user], true);
        let request;
        if (room) request = await crypto.requestVerificationDM(user, room);
        else if (device) request = await crypto.requestDeviceVerification(user, device);
        else if (user === own.user) request = await crypto.requestOwnUserVerification();
        else throw new Unsupported("a device or a room has to be named");
        flows.set(request.transactionId, request);
        return { flow: request.transactionId };
    },
    async sas_accept({ user, timeout_ms }) {
        const isOpen = (r) => r.otherUserId === user && !r.initiatedByMe && r.phase === VerificationPhase.Requested;
        const request = await poll(`a request of ${user}`, timeout_ms, () => [...flows.values()].find(isOpen));
        await request.accept();
        return { flow: request.transactionId };
    },
    async sas_emojis({ flow: id, timeout_ms }) {
        const found = await verifier(id, timeout_ms);
        // Does not end before the verification does: by then it is looked at elsewhere.
        found.verify().catch(() => {});
        const { sas } = await poll("the strings", timeout_ms, () => flow(id) && found.getShowSasCallbacks());
        return { emojis: sas.emoji ?? null, decimals: sas.decimal ?? null };
    },
    async sas_confirm({ flow: id, timeout_ms }) {
        const { verifier } = flow(id);
        await (verifier.getShowSasCallbacks() ?? verifier.getReciprocateQrCodeCallbacks()).confirm();
        return nothing(poll(`the end of ${id}`, timeout_ms, () => flow(id).phase === VerificationPhase.Done));
    },
    sas_cancel: ({ flow: id }) => nothing(flow(id).cancel()),
    flow({ flow: id }) {
        const request = flows.get(id);
        const isScanned = request.verifier?.getReciprocateQrCodeCallbacks() && request.phase === VerificationPhase.Started;
        return { state: isScanned ? "scanned" : VerificationPhase[request.phase].toLowerCase() };
    },
    async qr_show({ flow: id }) {
        const code = await flow(id).generateQRCode();
        if (!code) throw new Error("no code can be shown now");
        return { data: Buffer.from(code).toString("base64") };
    },
    async qr_scan({ flow: id, data }) {
        const found = await flow(id).scanQRCode(new Uint8ClampedArray(Buffer.from(data, "base64")));
        found.verify().catch(() => {});
        return {};
    },

    async export_keys({ path, passphrase }) {
        const keys = await matrix.getCrypto().exportRoomKeysAsJson();
        await writeFile(path, OlmMachine.encryptExportedRoomKeys(keys, passphrase, KEY_FILE_ROUNDS));
        return { count: JSON.parse(keys).length };
    },
    async import_keys({ path, passphrase }) {
        const keys = OlmMachine.decryptExportedRoomKeys(await readFile(path, "utf8"), passphrase);
        await matrix.getCrypto().importRoomKeysAsJson(keys);
        return { imported: JSON.parse(keys).length };
    },
};

process.on("unhandledRejection", (reason) => process.stderr.write(`unhandled: ${reason?.stack ?? reason}\n`));

const requests = readline.createInterface({ input: process.stdin });
// Whoever drove this is gone: do not outlive it, not even in the middle of a command.
requests.on("close", () => setTimeout(() => process.exit(0), 1000));
for await (const line of requests) {
    const { id, cmd, ...parameters } = JSON.parse(line);
    let answer;
    try {
        if (!Object.hasOwn(commands, cmd)) throw new Unsupported(`no command ${cmd}`);
        answer = { id, ok: true, result: await commands[cmd](parameters) };
    } catch (error) {
        answer = { id, ok: false, error: String(error?.message ?? error) };
        if (error instanceof Unsupported) answer.unsupported = true;
    }
    process.stdout.write(JSON.stringify(answer) + "\n");
}
