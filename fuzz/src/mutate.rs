//! A mutator that knows JSON: half of the time it changes one node of the tree, where libFuzzer's own
//! changes would mostly end at the first bracket.

use serde_json::{Map, Value, json};

/// A small generator for the mutator's choices; libFuzzer gives the seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 11).unwrap_or(0) % sides.max(1)
    }
}

/// Changes the JSON text in `data[..size]` after its first `prefix` bytes, up to the first zero byte, and
/// gives the new size; `fallback` is libFuzzer's own mutator, for everything else.
pub fn json(
    data: &mut [u8],
    size: usize,
    max_size: usize,
    seed: u32,
    prefix: usize,
    fallback: impl Fn(&mut [u8], usize, usize) -> usize,
) -> usize {
    let mut dice = Dice(u64::from(seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let body = data.get(prefix..size).unwrap_or_default();
    let (text, rest) = crate::split(body);
    let tree = serde_json::from_slice::<Value>(text);
    let (Ok(mut tree), true) = (tree, dice.roll(3) > 0) else {
        return fallback(data, size, max_size);
    };
    let rest = if text.len() < body.len() { [&[0], rest].concat() } else { Vec::new() };
    for _ in 0..=dice.roll(3) {
        let copy = tree.clone();
        let nodes = count(&tree);
        let at = dice.roll(nodes);
        let other = pick(&copy, dice.roll(nodes)).cloned().unwrap_or_default();
        if let Some(node) = pick_mut(&mut tree, at) {
            change(node, other, &mut dice);
        }
    }
    let new = [tree.to_string().as_bytes(), &rest].concat();
    match data.get_mut(prefix..prefix + new.len()) {
        Some(place) if prefix + new.len() <= max_size => {
            place.copy_from_slice(&new);
            prefix + new.len()
        }
        _ => fallback(data, size, max_size),
    }
}

fn children(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(items) => items.iter().collect(),
        Value::Object(items) => items.values().collect(),
        _ => Vec::new(),
    }
}

fn count(value: &Value) -> usize {
    1 + children(value).into_iter().map(count).sum::<usize>()
}

/// The node of this number, counted from the root down.
fn pick(value: &Value, mut at: usize) -> Option<&Value> {
    if at == 0 {
        return Some(value);
    }
    at -= 1;
    for child in children(value) {
        let size = count(child);
        if at < size {
            return pick(child, at);
        }
        at -= size;
    }
    None
}

fn pick_mut(value: &mut Value, mut at: usize) -> Option<&mut Value> {
    if at == 0 {
        return Some(value);
    }
    at -= 1;
    let children: Vec<&mut Value> = match value {
        Value::Array(items) => items.iter_mut().collect(),
        Value::Object(items) => items.values_mut().collect(),
        _ => Vec::new(),
    };
    for child in children {
        let size = count(child);
        if at < size {
            return pick_mut(child, at);
        }
        at -= size;
    }
    None
}

/// Names and values that mean something somewhere.
const WORDS: [&str; 40] = [
    "",
    "type",
    "content",
    "sender",
    "event_id",
    "state_key",
    "unsigned",
    "redacts",
    "membership",
    "m.room.message",
    "m.room.encrypted",
    "m.room.encryption",
    "m.room.member",
    "m.room.redaction",
    "m.room.history_visibility",
    "m.room_key",
    "m.room_key.withheld",
    "m.dummy",
    "m.megolm.v1.aes-sha2",
    "m.olm.v1.curve25519-aes-sha2",
    "join",
    "leave",
    "ban",
    "invite",
    "knock",
    "limited",
    "algorithm",
    "session_id",
    "ciphertext",
    "sender_key",
    "m.relates_to",
    "rel_type",
    "m.replace",
    "failures",
    "device_keys",
    "master_keys",
    "rotation_period_ms",
    "rotation_period_msgs",
    "@x:y",
    "$e",
];

fn change(node: &mut Value, other: Value, dice: &mut Dice) {
    let word = WORDS[dice.roll(WORDS.len())];
    match (dice.roll(7), &mut *node) {
        (0 | 1, Value::Object(object)) => in_object(object, word, other, dice),
        (0 | 1, Value::Array(array)) if !array.is_empty() => {
            let (at, to) = (dice.roll(array.len()), dice.roll(array.len()));
            match dice.roll(4) {
                0 => drop(array.remove(at)),
                1 => array.swap(at, to),
                2 => array.insert(at, array[to].clone()),
                _ => array.push(other),
            }
        }
        (0 | 1, Value::String(text)) => in_text(text, word, dice),
        (0 | 1, Value::Number(number)) => {
            let old = number.as_i64().unwrap_or(0);
            *node = json!(old.wrapping_add([1, -1, 1000, -1000][dice.roll(4)]));
        }
        (2 | 3, _) => *node = other,
        (4, _) => *node = json!(word),
        _ => {
            let scalars = [
                Value::Null,
                json!(true),
                json!(false),
                json!(0),
                json!(-1),
                json!(1),
                json!(1e308),
                json!(u64::MAX),
                json!(i64::MIN),
                json!(1_u64 << 53),
                json!([]),
                json!({}),
                json!("\0"),
                json!([[[[[[[[]]]]]]]]),
                json!("x".repeat(300)),
                json!([null]),
            ];
            *node = scalars[dice.roll(scalars.len())].clone();
        }
    }
}

fn in_object(object: &mut Map<String, Value>, word: &str, other: Value, dice: &mut Dice) {
    let key = object.keys().nth(dice.roll(object.len())).cloned().unwrap_or_default();
    match dice.roll(4) {
        0 => drop(object.remove(&key)),
        1 => drop(object.insert(word.to_owned(), other)),
        2 => {
            let value = object.remove(&key).unwrap_or_default();
            object.insert(word.to_owned(), value);
        }
        _ => drop(object.insert(key, other)),
    }
}

fn in_text(text: &mut String, word: &str, dice: &mut Dice) {
    let mut chars: Vec<char> = text.chars().collect();
    let at = dice.roll(chars.len() + 1);
    let random = char::from(u8::try_from(32 + dice.roll(95)).unwrap_or(b'x'));
    match dice.roll(5) {
        0 => chars.truncate(at),
        1 => chars.insert(at, random),
        2 => chars.extend(word.chars()),
        3 => chars.insert(at, ['\0', '\u{202e}', '\u{10ffff}', '"', '%'][dice.roll(5)]),
        _ => {
            if let Some(place) = chars.get_mut(at) {
                *place = random;
            }
        }
    }
    *text = chars.into_iter().collect();
}
