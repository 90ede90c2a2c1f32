//! Rooms and who is in them.

use herold::{HistoryVisibility, Membership, OwnedRoomId, RoomPreset, RoomRecord, SharedHistory};
use serde_json::json;

use super::{Freshness, Setting};
use crate::{
    args::{self, CreateRoom, Invite, Join, Members, RoomOnly, RoomUser, VisibilityArg},
    failure::Failure,
    output::clean,
    rpc::message::{visibility, word},
};

/// `herold rooms`
pub async fn rooms(setting: &Setting, args: args::Rooms) -> Result<(), Failure> {
    setting
        .with_client(Freshness::unless(args.offline), async |client| {
            for (id, room) in client.rooms()? {
                let gone = matches!(room.membership, Membership::Leave | Membership::Ban);
                if args.all || !gone {
                    show(setting, &id, &room)?;
                }
            }
            Ok(())
        })
        .await
}

fn show(setting: &Setting, id: &OwnedRoomId, room: &RoomRecord) -> Result<(), Failure> {
    let encryption = match &room.encryption {
        Some(settings) if settings.is_supported() => "encrypted",
        Some(_) => "encrypted in a way not supported",
        None => "NOT ENCRYPTED",
    };
    let name = room.name.as_deref().map(|name| format!("  {}", clean(name))).unwrap_or_default();
    let membership = word(room.membership);
    setting.output.line(
        &format!("{}  {membership}, {encryption}{name}", clean(id.as_str())),
        &json!({
            "room": id,
            "name": room.name,
            "membership": membership,
            "encrypted": room.encryption.is_some(),
            "algorithm": room.encryption.as_ref().map(|settings| &settings.algorithm),
            "history_visibility": visibility(room.history_visibility),
        }),
    )
}

/// `herold create-room`
pub async fn create(setting: &Setting, args: CreateRoom) -> Result<(), Failure> {
    if args.direct && args.invite.len() != 1 {
        return Err(Failure::usage("a direct chat is with one user: give one --invite"));
    }
    let room = herold::CreateRoom {
        invite: args.invite,
        name: args.name,
        direct: args.direct,
        encrypted: !args.unencrypted,
        rotation_messages: args.rotation_messages,
        preset: if args.direct { RoomPreset::TrustedPrivateChat } else { RoomPreset::PrivateChat },
        history_visibility: Some(match args.history {
            VisibilityArg::Shared => HistoryVisibility::Shared,
            VisibilityArg::Invited => HistoryVisibility::Invited,
            VisibilityArg::Joined => HistoryVisibility::Joined,
        }),
    };
    setting
        .with_client(Freshness::CaughtUp, async |client| {
            let id = setting.within("creating the room", client.create_room(room)).await?;
            setting.output.line(id.as_str(), &json!({ "room": id }))
        })
        .await
}

/// `herold join`
pub async fn join(setting: &Setting, args: Join) -> Result<(), Failure> {
    setting
        .with_client(Freshness::CaughtUp, async |client| {
            if args.no_history {
                setting.within("joining", client.join_without_history(&args.room)).await?;
            } else {
                setting.within("joining", client.join(&args.room)).await?;
            }
            done(setting, "joined", &args.room)
        })
        .await
}

/// `herold leave`
pub async fn leave(setting: &Setting, args: RoomOnly) -> Result<(), Failure> {
    setting
        .with_client(Freshness::CaughtUp, async |client| {
            setting.within("leaving", client.leave(&args.room)).await?;
            done(setting, "left", &args.room)
        })
        .await
}

/// `herold forget`
pub async fn forget(setting: &Setting, args: RoomOnly) -> Result<(), Failure> {
    setting
        .with_client(Freshness::CaughtUp, async |client| {
            let forgotten = setting.within("forgetting", client.forget(&args.room)).await?;
            let text = format!(
                "forgot {}: {} room keys, {} events",
                clean(args.room.as_str()),
                forgotten.room_keys,
                forgotten.events
            );
            let (keys, events) = (forgotten.room_keys, forgotten.events);
            let object = json!({ "room": args.room, "room_keys": keys, "events": events });
            setting.output.line(&text, &object)
        })
        .await
}

/// `herold invite`
pub async fn invite(setting: &Setting, args: Invite) -> Result<(), Failure> {
    setting
        .with_client(Freshness::CaughtUp, async |client| {
            if !args.share_history {
                setting.within("inviting", client.invite(&args.room, &args.user)).await?;
                return done(setting, "invited to", &args.room);
            }
            let inviting = client.invite_with_history(&args.room, &args.user);
            let shared = setting.within("inviting", inviting).await?;
            let (keys, said) = match shared {
                SharedHistory::Keys(keys) => (keys, format!("with {keys} keys of older messages")),
                SharedHistory::Closed => (0, "older messages are not for new members".to_owned()),
                SharedHistory::NotSigned => {
                    (0, "this device has to be verified before it can share keys".to_owned())
                }
                _ => (0, "there are no keys to share".to_owned()),
            };
            setting.output.line(
                &format!("invited to {}, {said}", clean(args.room.as_str())),
                &json!({ "room": args.room, "history": shared.as_str(), "keys": keys }),
            )
        })
        .await
}

/// `herold kick`
pub async fn kick(setting: &Setting, args: RoomUser) -> Result<(), Failure> {
    setting
        .with_client(Freshness::CaughtUp, async |client| {
            setting.within("removing", client.kick(&args.room, &args.user)).await?;
            done(setting, "removed from", &args.room)
        })
        .await
}

fn done(setting: &Setting, what: &str, room: &OwnedRoomId) -> Result<(), Failure> {
    setting.output.line(&format!("{what} {}", clean(room.as_str())), &json!({ "room": room }))
}

/// `herold members`
pub async fn members(setting: &Setting, args: Members) -> Result<(), Failure> {
    setting
        .with_client(Freshness::CaughtUp, async |client| {
            let members =
                setting.within("fetching the members", client.members(&args.room)).await?;
            for (user, member) in members {
                if !args.all && matches!(member.membership, Membership::Leave | Membership::Ban) {
                    continue;
                }
                let name = member.display_name.as_deref();
                let shown = name.map(|name| format!("  {}", clean(name))).unwrap_or_default();
                let membership = word(member.membership);
                setting.output.line(
                    &format!("{}  {membership}{shown}", clean(user.as_str())),
                    &json!({ "user": user, "membership": membership, "display_name": name }),
                )?;
            }
            Ok(())
        })
        .await
}
