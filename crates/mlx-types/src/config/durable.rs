//! Requests that must not be lost.

use garde::Validate;
use mlx_errors::Violation;
#[cfg(feature = "schema")]
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rules::relation;
use crate::Millis;

/// Durable hand-over: requests that JetStream keeps until a worker has begun to answer them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Validate)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[garde(allow_unvalidated)]
#[non_exhaustive]
pub struct DurableConfig {
    /// Whether requests can be handed over through JetStream, beside the plain way.
    pub enabled: bool,
    /// Servers that keep each request, 1 to 5; not more than the cluster has.
    #[garde(range(min = 1, max = 5))]
    pub replicas: u8,
    /// How long a request is kept at the most, in ms.
    pub max_age_ms: Millis,
    /// Bytes of requests kept at the most; further ones are refused.
    #[garde(range(min = 1_048_576, max = 1_099_511_627_776_u64))]
    pub max_bytes: u64,
    /// How long a request may wait for its first token before its requester gives it up, in ms.
    pub first_token_timeout_ms: Millis,
    /// How long a worker that took a request may be silent before another gets it, in ms; longer after each attempt.
    #[garde(custom(at_least_100_ms))]
    #[cfg_attr(feature = "schema", schemars(schema_with = "ack_wait_schema"))]
    pub ack_wait_ms: Millis,
    /// Workers that a request is given to, 1 to 100, before it is given up as a dead letter.
    #[garde(range(min = 1, max = 100))]
    pub max_deliveries: u32,
    /// How long a request is recognised as the same by its id, in ms.
    pub duplicate_window_ms: Millis,
    /// How long dead letters are kept, in ms.
    pub dead_letter_max_age_ms: Millis,
}

impl Default for DurableConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            replicas: 1,
            max_age_ms: Millis::of::<3_600_000>(),
            max_bytes: 256 << 20,
            first_token_timeout_ms: Millis::of::<300_000>(),
            ack_wait_ms: Millis::of::<10_000>(),
            max_deliveries: 5,
            duplicate_window_ms: Millis::of::<600_000>(),
            dead_letter_max_age_ms: Millis::of::<604_800_000>(),
        }
    }
}

impl DurableConfig {
    /// The rules between members that are broken.
    pub(super) fn relations(&self) -> Vec<Violation> {
        let mut broken = Vec::new();
        if self.duplicate_window_ms > self.max_age_ms {
            let message = "must not be longer than `requestRouting.durable.maxAgeMs`";
            broken.push(relation("duplicateWindowMs", "order", message));
        }
        if self.first_token_timeout_ms > self.max_age_ms {
            let message = "must not be longer than `requestRouting.durable.maxAgeMs`: the request would be gone before";
            broken.push(relation("firstTokenTimeoutMs", "order", message));
        }
        broken
    }
}

/// Heartbeats go out three times as often, which is no use much below this.
const SHORTEST_ACK_WAIT: u64 = 100;

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that garde calls")]
fn at_least_100_ms(value: &Millis, _: &()) -> garde::Result {
    if value.get() >= SHORTEST_ACK_WAIT { Ok(()) } else { Err(garde::Error::new("must be at least 100 ms")) }
}

/// [`at_least_100_ms`], for the schema.
#[cfg(feature = "schema")]
fn ack_wait_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let mut schema = Millis::json_schema(generator);
    schema.insert("minimum".to_owned(), SHORTEST_ACK_WAIT.into());
    schema
}

#[cfg(test)]
mod tests {
    use crate::ClusterConfig;
    use crate::time::Millis;

    fn broken(change: impl FnOnce(&mut ClusterConfig)) -> Vec<String> {
        let mut config = ClusterConfig::default();
        change(&mut config);
        config.check().err().iter().flatten().map(|violation| violation.path.clone()).collect()
    }

    #[test]
    fn durable_hand_over_needs_a_server_that_keeps_messages() {
        let enabled = |config: &mut ClusterConfig| config.request_routing.durable.enabled = true;
        assert_eq!(broken(enabled), ["requestRouting.durable.enabled"]);
        let with_jetstream = broken(|config| {
            enabled(config);
            config.nats.embedded.jetstream.enabled = true;
        });
        assert!(with_jetstream.is_empty(), "{with_jetstream:?}");
    }

    #[test]
    fn nothing_is_waited_for_or_recognised_longer_than_it_is_kept() {
        let short = broken(|config| config.request_routing.durable.max_age_ms = Millis::of::<1000>());
        assert_eq!(short, ["requestRouting.durable.duplicateWindowMs", "requestRouting.durable.firstTokenTimeoutMs"]);
    }
}
