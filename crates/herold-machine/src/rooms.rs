//! Rooms: the state that encryption needs. Membership, encryption, history visibility.
//!
//! Encryption once on stays on (attack N29); a member's going ends the session at once, so that the
//! next message uses another one.

use herold_store::records::{
    CounterRecord, HistoryVisibility, MemberKey, MemberRecord, Membership, NameKey,
    OutboundSessionRecord, RoomKey, RoomRecord, TimelineKey,
};
use herold_trust::{MEGOLM, Policy, parse_encryption};
use ruma::{OwnedUserId, RoomId, UserId};
use serde_json::{Value, value::RawValue};

use crate::{
    AppEvent, DropReason, MachineError, Notice, devices, history,
    hot::Hot,
    retired,
    timeline::{self, Origin},
    txn::Txn,
    wire::{
        EncryptionContent, Events, InviteSection, MemberContent, NameContent, RoomSection,
        StateHead, Timeline, VisibilityContent, parse_section,
    },
};

/// A room just heard of.
pub(crate) fn new_room(membership: Membership) -> RoomRecord {
    RoomRecord {
        membership,
        encryption: None,
        history_visibility: HistoryVisibility::default(),
        name: None,
        members_complete: false,
        member_generation: 0,
        prev_batch: None,
        next_order: TimelineKey::MIDDLE,
        previous_order: TimelineKey::MIDDLE - 1,
    }
}

/// What a sync says of a room that we are in, or were in: the same for both kinds of sync.
#[derive(Default)]
pub(crate) struct RoomUpdate {
    /// State from before the timeline.
    pub(crate) state: Vec<Box<RawValue>>,
    /// The newest events, oldest first.
    pub(crate) timeline: Vec<Box<RawValue>>,
    /// State that holds after the timeline.
    pub(crate) state_after: Vec<Box<RawValue>>,
    /// There may be events between what is known and the timeline.
    pub(crate) gap: bool,
    /// The token to fetch what is before the timeline with.
    pub(crate) prev_batch: Option<String>,
}

/// Reads a room of the `join` or `leave` section of sync v2.
pub(crate) fn read_section(
    txn: &mut Txn<'_, '_>,
    room_id: &RoomId,
    raw: &RawValue,
) -> Result<RoomUpdate, MachineError> {
    let section: RoomSection = section_or_notice(txn, Some(room_id), Some(raw))?;
    let state: Events = section_or_notice(txn, Some(room_id), section.state.as_deref())?;
    let timeline: Timeline = section_or_notice(txn, Some(room_id), section.timeline.as_deref())?;
    Ok(RoomUpdate {
        state: state.events,
        timeline: timeline.events,
        state_after: Vec::new(),
        gap: timeline.limited.as_ref().and_then(Value::as_bool).unwrap_or(false),
        prev_batch: timeline.prev_batch.as_ref().and_then(Value::as_str).map(str::to_owned),
    })
}

/// Takes what a sync says of a room that we are in, or were in. Answers how many events there were.
pub(crate) fn handle_room(
    txn: &mut Txn<'_, '_>,
    hot: &mut Hot,
    policy: &Policy,
    room_id: &RoomId,
    membership: Membership,
    update: RoomUpdate,
) -> Result<usize, MachineError> {
    let key = RoomKey { room_id: room_id.to_owned() };
    let known = txn.load::<RoomRecord>(&key)?;
    let mut room = known.clone().unwrap_or_else(|| new_room(membership));
    if room.membership != membership {
        if membership == Membership::Join {
            room.members_complete = false;
        } else {
            discard_session(txn, room_id)?;
        }
        history::membership_changed(txn, room_id, membership)?;
        room.membership = membership;
        room.member_generation += 1;
    }
    if update.gap && known.is_some() {
        // Somebody may have left and come back unseen.
        lose_members(txn, room_id, &mut room)?;
    }
    if room.next_order == TimelineKey::MIDDLE {
        room.prev_batch = update.prev_batch;
    } else if update.gap {
        timeline::start_over(txn, room_id, &mut room)?;
        room.prev_batch = update.prev_batch;
    }
    for raw in &update.state {
        handle_state(txn, policy, room_id, &mut room, raw)?;
    }
    for raw in &update.timeline {
        handle_state(txn, policy, room_id, &mut room, raw)?;
        timeline::ingest(txn, hot, room_id, &mut room, raw, Origin::Live)?;
    }
    for raw in &update.state_after {
        handle_state(txn, policy, room_id, &mut room, raw)?;
    }
    if known.as_ref() != Some(&room) {
        txn.put(&key, &room);
    }
    Ok(update.timeline.len())
}

/// Members may have come and gone unseen: the list is fetched anew, the next message uses a new session, and
/// a list already asked for counts as too old.
pub(crate) fn lose_members(
    txn: &mut Txn<'_, '_>,
    room_id: &RoomId,
    room: &mut RoomRecord,
) -> Result<(), MachineError> {
    discard_session(txn, room_id)?;
    room.members_complete = false;
    room.member_generation += 1;
    Ok(())
}

/// Our own membership, in state as a sync gives it; the last event wins.
pub(crate) fn own_membership(txn: &Txn<'_, '_>, events: &[Box<RawValue>]) -> Option<Membership> {
    let own = txn.own();
    events.iter().rev().find_map(|raw| {
        let event: StateHead = parse_section(raw)?;
        if event.event_type != "m.room.member" || event.state_key != own.user_id.as_str() {
            return None;
        }
        Some(membership_of(event.content.as_deref())?.0)
    })
}

/// Reads a room of the `invite` section of sync v2: the state that the invitation shows.
pub(crate) fn read_invite(
    txn: &mut Txn<'_, '_>,
    room_id: &RoomId,
    raw: &RawValue,
) -> Result<Vec<Box<RawValue>>, MachineError> {
    let section: InviteSection = section_or_notice(txn, Some(room_id), Some(raw))?;
    let state: Events = section_or_notice(txn, Some(room_id), section.invite_state.as_deref())?;
    Ok(state.events)
}

/// Takes a room that we are invited to, with the state that the invitation shows.
pub(crate) fn handle_invite(
    txn: &mut Txn<'_, '_>,
    policy: &Policy,
    room_id: &RoomId,
    state: &[Box<RawValue>],
) -> Result<(), MachineError> {
    let key = RoomKey { room_id: room_id.to_owned() };
    let known = txn.load::<RoomRecord>(&key)?;
    let mut room = known.clone().unwrap_or_else(|| new_room(Membership::Invite));
    room.membership = Membership::Invite;
    room.members_complete = false;
    for raw in state {
        handle_state(txn, policy, room_id, &mut room, raw)?;
    }
    history::note_invitation(txn, room_id, state)?;
    let own = txn.own().user_id.clone();
    set_member(txn, room_id, &mut room, &own, Membership::Invite, None)?;
    if known.as_ref() != Some(&room) {
        txn.put(&key, &room);
    }
    Ok(())
}

pub(crate) fn section_or_notice<T: serde::de::DeserializeOwned + Default>(
    txn: &mut Txn<'_, '_>,
    room_id: Option<&RoomId>,
    raw: Option<&RawValue>,
) -> Result<T, MachineError> {
    match raw.map(parse_section) {
        None => Ok(T::default()),
        Some(Some(section)) => Ok(section),
        Some(None) => {
            let room_id = room_id.map(ToOwned::to_owned);
            txn.notice(Notice::EventDropped { room_id, reason: DropReason::Malformed })?;
            Ok(T::default())
        }
    }
}

/// Takes an event if it is state that encryption needs. What is malformed changes nothing: if it stands
/// in the timeline its notice comes from there.
fn handle_state(
    txn: &mut Txn<'_, '_>,
    policy: &Policy,
    room_id: &RoomId,
    room: &mut RoomRecord,
    raw: &RawValue,
) -> Result<(), MachineError> {
    // Most events of a timeline are none. A key can only be spelt otherwise with `\u`.
    if !raw.get().contains("state_key") && !raw.get().contains("\\u") {
        return Ok(());
    }
    // Of any size, and only what is needed of it: who could make us overlook a leave or an encryption by
    // what stands beside it would be sent keys, or read what is sent in the clear.
    let Some(event) = parse_section::<StateHead>(raw) else { return Ok(()) };
    let (state_key, content) = (&event.state_key, &event.content);
    match event.event_type.as_str() {
        "m.room.member" => {
            let Ok(user_id) = OwnedUserId::try_from(state_key.as_str()) else { return Ok(()) };
            let Some((membership, name)) = membership_of(content.as_deref()) else {
                return Ok(());
            };
            set_member(txn, room_id, room, &user_id, membership, name)
        }
        "m.room.encryption" if state_key.is_empty() => {
            let settings = content.as_deref().and_then(parse_section::<EncryptionContent>);
            set_encryption(txn, policy, room_id, room, &settings.unwrap_or_default().to_value())
        }
        "m.room.history_visibility" if state_key.is_empty() => {
            let visibility = content
                .as_deref()
                .and_then(parse_section::<VisibilityContent>)
                .and_then(|content| parse_section(content.history_visibility.as_deref()?))
                .unwrap_or_default();
            if room.history_visibility != visibility {
                room.history_visibility = visibility;
                room.member_generation += 1;
                discard_session(txn, room_id)?;
            }
            Ok(())
        }
        "m.room.name" if state_key.is_empty() => {
            room.name = content
                .as_deref()
                .and_then(parse_section::<NameContent>)
                .and_then(|content| parse_section::<String>(content.name.as_deref()?))
                .filter(|name| !name.is_empty());
            Ok(())
        }
        _ => Ok(()),
    }
}

/// The membership and the name in the content of `m.room.member`, whatever else it holds.
pub(crate) fn membership_of(content: Option<&RawValue>) -> Option<(Membership, Option<String>)> {
    let content: MemberContent = parse_section(content?)?;
    let name = content.displayname.as_deref().and_then(parse_section::<String>);
    Some((parse_section(&content.membership)?, name))
}

fn set_encryption(
    txn: &mut Txn<'_, '_>,
    policy: &Policy,
    room_id: &RoomId,
    room: &mut RoomRecord,
    content: &Value,
) -> Result<(), MachineError> {
    let settings = parse_encryption(content, policy);
    match &room.encryption {
        Some(known) if *known == settings => return Ok(()),
        // The algorithm never changes for the worse, whatever the state says.
        Some(known) if known.algorithm == MEGOLM && settings.algorithm != MEGOLM => {
            return Ok(txn.notice(Notice::EncryptionChangeRefused { room_id: room_id.to_owned() })?);
        }
        _ => {}
    }
    room.encryption = Some(settings);
    for (key, member) in txn.list::<MemberRecord>(&MemberKey::of(room_id))? {
        if matches!(member.membership, Membership::Join | Membership::Invite) {
            devices::track(txn, &key.user_id)?;
        }
    }
    Ok(())
}

/// Whether a member in this state is in the room, or about to be.
fn is_inside(membership: Membership) -> bool {
    matches!(membership, Membership::Join | Membership::Invite)
}

/// Sets a member's membership.
pub(crate) fn set_member(
    txn: &mut Txn<'_, '_>,
    room_id: &RoomId,
    room: &mut RoomRecord,
    user_id: &UserId,
    membership: Membership,
    display_name: Option<String>,
) -> Result<(), MachineError> {
    let key = MemberKey { room_id: room_id.to_owned(), user_id: user_id.to_owned() };
    let known = txn.load::<MemberRecord>(&key)?;
    let record = MemberRecord { membership, display_name };
    if known.as_ref() == Some(&record) {
        return Ok(());
    }
    txn.put(&key, &record);
    let before = known.map(|record| record.membership);
    if before == Some(membership) {
        return Ok(()); // a change of profile is none of the session's business
    }
    room.member_generation += 1;
    if before.is_some_and(is_inside) && !is_inside(membership) {
        discard_session(txn, room_id)?;
    }
    if is_inside(membership) && room.encryption.is_some() {
        devices::track(txn, user_id)?;
    }
    txn.emit(AppEvent::Membership {
        room_id: room_id.to_owned(),
        user_id: user_id.to_owned(),
        membership,
    })?;
    Ok(())
}

/// The counter of the messages that the room's outbound session has encrypted. The session's index does
/// not say it: after a restart that stands where the reserve ends. A counter stands on the page that
/// every queued message writes anyway.
pub(crate) fn messages_name(room_id: &RoomId) -> String {
    format!("outbound/{room_id}")
}

/// Ends the outbound session: the next message makes another. Devices that missed it can still be given it.
pub(crate) fn discard_session(txn: &mut Txn<'_, '_>, room_id: &RoomId) -> Result<(), MachineError> {
    let key = RoomKey { room_id: room_id.to_owned() };
    if let Some(session) = txn.load::<OutboundSessionRecord>(&key)? {
        retired::retire(txn, room_id, &session)?;
        txn.delete::<OutboundSessionRecord>(&key);
        // After a power loss it must not come back: somebody who has it may have left.
        txn.require_full();
        txn.delete::<CounterRecord>(&NameKey { name: messages_name(room_id) });
    }
    Ok(())
}

/// Takes the complete member list.
pub(crate) fn handle_members(
    txn: &mut Txn<'_, '_>,
    room_id: &RoomId,
    events: &[Box<RawValue>],
) -> Result<(), MachineError> {
    let key = RoomKey { room_id: room_id.to_owned() };
    let Some(mut room) = txn.load::<RoomRecord>(&key)? else { return Ok(()) };
    let mut listed = std::collections::BTreeSet::new();
    for raw in events {
        let member = parse_section::<StateHead>(raw).and_then(|event| {
            let user_id = OwnedUserId::try_from(event.state_key.as_str()).ok()?;
            let (membership, name) = membership_of(event.content.as_deref())?;
            (event.event_type == "m.room.member").then_some((user_id, membership, name))
        });
        let Some((user_id, membership, name)) = member else {
            txn.notice(Notice::EventDropped {
                room_id: Some(room_id.to_owned()),
                reason: DropReason::Malformed,
            })?;
            continue;
        };
        set_member(txn, room_id, &mut room, &user_id, membership, name)?;
        listed.insert(user_id);
    }
    for (member, record) in txn.list::<MemberRecord>(&MemberKey::of(room_id))? {
        if !listed.contains(&member.user_id) && is_inside(record.membership) {
            set_member(txn, room_id, &mut room, &member.user_id, Membership::Leave, None)?;
        }
    }
    room.members_complete = true;
    txn.put(&key, &room);
    Ok(())
}
