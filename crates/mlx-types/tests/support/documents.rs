//! Documents made from a schema: valid ones, and ones that are nearly so.

use serde_json::{Map, Value, json};

/// A source of choices that a property test can replay from its seed.
pub(crate) struct Choices(u64);

impl Choices {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The `SplitMix64` generator.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn pick<T: Clone>(&mut self, options: &[T]) -> T {
        options[self.below(options.len())].clone()
    }
}

/// A document that follows `schema`, more or less: the strings are guesses.
pub(crate) fn sample(schema: &Value, root: &Value, choices: &mut Choices) -> Value {
    if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
        return sample(root.pointer(&reference[1..]).unwrap(), root, choices);
    }
    if let Some(constant) = schema.get("const") {
        return constant.clone();
    }
    if let Some(options) = schema.get("enum").and_then(Value::as_array) {
        return choices.pick(options);
    }
    if schema.get("properties").is_none() {
        for branches in ["oneOf", "anyOf"] {
            let Some(branches) = schema.get(branches).and_then(Value::as_array) else { continue };
            let branch = choices.pick(branches);
            // A branch that only narrows says nothing of the type.
            if ["$ref", "type", "const", "oneOf", "properties"].iter().any(|key| branch.get(key).is_some()) {
                return sample(&branch, root, choices);
            }
        }
    }
    let kind = match schema.get("type") {
        Some(Value::String(kind)) => kind.clone(),
        Some(Value::Array(kinds)) => choices.pick(kinds).as_str().unwrap().to_owned(),
        _ => "object".to_owned(),
    };
    match kind.as_str() {
        "null" => Value::Null,
        "boolean" => Value::Bool(choices.one_in(2)),
        "integer" | "number" => number(schema, kind == "integer", choices),
        "array" => {
            let count = choices.below(3) + schema.get("minItems").and_then(Value::as_u64).unwrap_or(0) as usize;
            (0..count).map(|_| sample(schema.get("items").unwrap_or(&json!({})), root, choices)).collect()
        }
        "string" => string(schema, choices),
        _ => object(schema, root, choices),
    }
}

fn object(schema: &Value, root: &Value, choices: &mut Choices) -> Value {
    let required: Vec<&str> =
        schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    let mut members = Map::new();
    for (name, property) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        if required.contains(&name.as_str()) || choices.one_in(2) {
            members.insert(name.clone(), sample(property, root, choices));
        }
    }
    if let Some(Value::Object(additional)) = schema.get("additionalProperties") {
        for _ in 0..choices.below(3) {
            members.insert(choices.pick(&TEXTS).to_owned(), sample(&Value::Object(additional.clone()), root, choices));
        }
    }
    Value::Object(members)
}

fn number(schema: &Value, integer: bool, choices: &mut Choices) -> Value {
    let limit = |name: &str| schema.get(name).and_then(Value::as_f64);
    let min = limit("minimum").unwrap_or(0.0);
    let max = limit("maximum").unwrap_or(1e9);
    // The bounds themselves, and what lies right beyond them.
    if choices.one_in(4) {
        let step = if integer { 1.0 } else { 0.001 };
        let near = choices.pick(&[min, max, min - step, max + step, 0.0, 1.0]);
        return if near.fract() == 0.0 { whole(near) } else { json!(near) };
    }
    let value = min + (max.min(1e9) - min) * (choices.below(1001) as f64 / 1000.0);
    if integer { whole(value.round()) } else { json!(value) }
}

/// `1`, not `1.0`: to a schema both are integers, and no peer writes one as the latter.
fn whole(value: f64) -> Value {
    format!("{value:.0}").parse::<serde_json::Number>().map_or(json!(0), Value::Number)
}

fn string(schema: &Value, choices: &mut Choices) -> Value {
    let formats = schema.get("anyOf").and_then(Value::as_array).into_iter().flatten().chain([schema]);
    let formats: Vec<&str> = formats.filter_map(|schema| schema.get("format")?.as_str()).collect();
    let pattern = schema.get("pattern").and_then(Value::as_str).unwrap_or_default();
    if formats.contains(&"uuid") {
        json!(choices.pick(&UUIDS))
    } else if formats.contains(&"nats-url") {
        json!(choices.pick(&NATS_URLS))
    } else if formats.iter().any(|format| format.starts_with("ip")) {
        json!(choices.pick(&ADDRESSES))
    } else if pattern.contains("://") {
        json!(choices.pick(&URLS))
    } else {
        json!(choices.pick(&TEXTS))
    }
}

/// Changes a few things below `document`; what comes out may be valid or not.
pub(crate) fn mutate(document: &mut Value, choices: &mut Choices) {
    for _ in 0..choices.below(3) {
        mutate_once(document, choices);
    }
}

fn mutate_once(value: &mut Value, choices: &mut Choices) {
    match value {
        Value::Object(members) if !members.is_empty() && !choices.one_in(8) => {
            let name = members.keys().nth(choices.below(members.len())).unwrap().clone();
            match choices.below(9) {
                // What serde takes for a struct, and no schema does.
                3 => *value = members.values().cloned().collect(),
                0 => drop(members.remove(&name)),
                1 => drop(members.insert(choices.pick(&["unknown", "Type", "worker_id", ""]).to_owned(), json!(1))),
                2 => drop(members.insert(name, Value::Null)),
                _ => mutate_once(&mut members[&name], choices),
            }
        }
        Value::Array(items) if !items.is_empty() && choices.one_in(2) => {
            let index = choices.below(items.len());
            mutate_once(&mut items[index], choices);
        }
        Value::Array(items) if choices.one_in(2) => items.clear(),
        other => *other = replacement(choices),
    }
}

fn replacement(choices: &mut Choices) -> Value {
    match choices.below(10) {
        0 => Value::Null,
        1 => json!(choices.one_in(2)),
        2 => json!([]),
        3 => json!({}),
        4 => json!(choices.pick(&UUIDS)),
        5 => json!(choices.pick(&[&ADDRESSES[..], &URLS, &NATS_URLS].concat())),
        6 => json!(choices.pick(&TEXTS)),
        7 => json!(choices.pick(&[-1.5, 0.5, 2.0001, 99.9, 100.1, 1e300])),
        _ => json!(choices.pick(&[
            0_u64,
            1,
            2,
            3,
            32,
            33,
            80,
            100,
            101,
            1023,
            1024,
            65_535,
            65_536,
            4_294_967_295,
            4_294_967_296,
            u64::MAX
        ])),
    }
}

const UUIDS: [&str; 6] = [
    "0f8fad5b-d9cb-469f-a165-70867728950e",
    "0F8FAD5B-D9CB-469F-A165-70867728950E",
    "00000000-0000-0000-0000-000000000000",
    "0f8fad5bd9cb469fa16570867728950e",
    "{0f8fad5b-d9cb-469f-a165-70867728950e}",
    "0f8fad5b-d9cb-469f-a165-70867728950g",
];

const ADDRESSES: [&str; 12] = [
    "127.0.0.1",
    "10.0.0.255",
    "::1",
    "fe80::1",
    "::ffff:10.0.0.1",
    "0.0.0.0",
    "localhost",
    "256.0.0.1",
    "01.2.3.4",
    "1.2.3",
    "fe80::1%eth0",
    "[::1]",
];

const URLS: [&str; 9] = [
    "http://10.0.0.1:8080",
    "https://h/path?x#y",
    "http://",
    "http://u:p@h",
    "h:1",
    "1http://h",
    "http://h x",
    "x+y://h",
    "://h",
];

const NATS_URLS: [&str; 16] = [
    "nats://h",
    "tls://h:1",
    "nats://u:p@h:4222/",
    "nats://t@[::1]",
    "NATS://H",
    "ws://h",
    "nats://",
    "nats://h:0",
    "nats://h:70000",
    "nats://h/x",
    "nats://h?x",
    "nats://:p@h",
    "nats://a,b",
    "nats://h:65535",
    "nats://u:@h",
    "nats://[::g]",
];

const TEXTS: [&str; 14] = [
    "",
    "a",
    "online",
    "stop",
    "token",
    "llama-3",
    "host.example",
    "with space",
    "größe",
    "a\nb",
    "\"quoted\"",
    "\u{0}",
    "-",
    "9",
];
