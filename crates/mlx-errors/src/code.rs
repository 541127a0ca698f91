//! The table of codes: the one place where a code's text, meaning and retryability are written down.

use std::fmt;
use std::str::FromStr;

/// Declares the codes once; everything that can be asked of a code is generated from this table.
macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $variant:ident = $text:literal, retryable: $retryable:literal;)+) => {
        /// A stable code: programs match on it, people search for it, peers send it.
        ///
        /// The text of a code never changes once released; new codes may be added.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum ErrorCode {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl ErrorCode {
            /// Every code, in the order of the table.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The code as it is logged and sent: upper case with underscores.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            /// Whether the same call may succeed if it is made again unchanged, here or at another worker.
            pub const fn is_retryable(self) -> bool {
                match self { $(Self::$variant => $retryable,)+ }
            }

            /// What the code means, in one sentence.
            pub const fn description(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+).trim_ascii(),)+ }
            }
        }
    };
}

codes! {
    /// No connection to a NATS server could be made.
    NatsConnection = "NATS_CONNECTION_ERROR", retryable: true;
    /// The NATS server refused the credentials.
    NatsAuthentication = "NATS_AUTHENTICATION_ERROR", retryable: false;
    /// No reply arrived within the timeout.
    NatsTimeout = "NATS_TIMEOUT_ERROR", retryable: true;
    /// A message could not be published.
    NatsPublish = "NATS_PUBLISH_ERROR", retryable: true;
    /// A subscription could not be made, or ended with an error.
    NatsSubscription = "NATS_SUBSCRIPTION_ERROR", retryable: true;
    /// Nobody listens on the subject.
    NatsNoResponders = "NATS_NO_RESPONDERS", retryable: true;
    /// The payload is larger than the server accepts.
    NatsPayloadTooLarge = "NATS_PAYLOAD_TOO_LARGE", retryable: false;
    /// The connection is down, or dropped while the call was under way.
    NatsDisconnected = "NATS_DISCONNECTED", retryable: true;
    /// The client was shut down, or gave up for good.
    NatsClosed = "NATS_CLOSED", retryable: false;
    /// A subject, or a token of one, is not valid.
    SubjectInvalid = "SUBJECT_INVALID", retryable: false;
    /// A peer answered with an error whose code this version does not know.
    Remote = "REMOTE_ERROR", retryable: false;
    /// The worker has no room for another request.
    Overloaded = "OVERLOADED", retryable: true;
    /// The deadline of the request had passed before the work was done.
    DeadlineExceeded = "DEADLINE_EXCEEDED", retryable: false;
    /// A message is not the JSON that its subject carries.
    MessageDecode = "MESSAGE_DECODE_ERROR", retryable: false;
    /// A message decodes, but breaks a rule of its type.
    MessageValidation = "MESSAGE_VALIDATION_ERROR", retryable: false;
    /// A frame of a token stream is missing.
    StreamGap = "STREAM_GAP", retryable: false;
    /// A token stream did not bring its first token in time.
    StreamFirstTokenTimeout = "STREAM_FIRST_TOKEN_TIMEOUT", retryable: true;
    /// A token stream fell silent between two tokens.
    StreamInterTokenTimeout = "STREAM_INTER_TOKEN_TIMEOUT", retryable: false;
    /// A token stream was cancelled by its requester.
    StreamCancelled = "STREAM_CANCELLED", retryable: false;
    /// The worker serving the request is gone.
    WorkerLost = "WORKER_LOST", retryable: true;
    /// The receiver was too slow and messages were dropped.
    SlowConsumer = "SLOW_CONSUMER", retryable: false;
    /// A configuration file could not be read.
    ConfigRead = "CONFIG_READ_ERROR", retryable: false;
    /// A configuration file is not well-formed YAML.
    ConfigSyntax = "CONFIG_SYNTAX_ERROR", retryable: false;
    /// A configuration breaks one or more rules.
    ConfigValidation = "CONFIG_VALIDATION_ERROR", retryable: false;
    /// The embedded NATS server failed in a way that no finer code names.
    EmbeddedServer = "EMBEDDED_SERVER_ERROR", retryable: false;
    /// No nats-server binary was found.
    EmbeddedServerNotFound = "EMBEDDED_SERVER_NOT_FOUND", retryable: false;
    /// The nats-server binary found has a version that is not supported.
    EmbeddedServerVersion = "EMBEDDED_SERVER_VERSION", retryable: false;
    /// The embedded NATS server did not start.
    EmbeddedServerStart = "EMBEDDED_SERVER_START_ERROR", retryable: false;
    /// The embedded NATS server crashed more often than its restart budget allows.
    EmbeddedServerFailed = "EMBEDDED_SERVER_FAILED", retryable: false;
    /// Logging could not be set up.
    Log = "LOG_ERROR", retryable: false;
    /// A defect in this software, for example a handler that panicked.
    Internal = "INTERNAL_ERROR", retryable: false;
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The text is none of this version's codes; it may be one of a newer peer or of a TypeScript node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown error code `{0}`")]
pub struct UnknownErrorCode(pub String);

impl FromStr for ErrorCode {
    type Err = UnknownErrorCode;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.iter().copied().find(|code| code.as_str() == text).ok_or_else(|| UnknownErrorCode(text.to_owned()))
    }
}

impl serde::Serialize for ErrorCode {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}
