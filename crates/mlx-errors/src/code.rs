//! The table of codes: the one place where a code's text, meaning, retryability and HTTP status are written down.

use std::fmt;
use std::str::FromStr;

/// Declares the codes once; everything that can be asked of a code is generated from this table.
macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $variant:ident = $text:literal, retryable: $retryable:literal, status: $status:literal, remedy: $remedy:literal;)+) => {
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

            /// The HTTP status that says the same: what a gateway answers with, and what NATS' own tools show of a service.
            pub const fn http_status(self) -> u16 {
                match self { $(Self::$variant => $status,)+ }
            }

            /// What the code means, in one sentence.
            pub const fn description(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+).trim_ascii(),)+ }
            }

            /// What a person can do about it, in a sentence or two.
            pub const fn remedy(self) -> &'static str {
                match self { $(Self::$variant => $remedy,)+ }
            }
        }
    };
}

codes! {
    /// No connection to a NATS server could be made.
    NatsConnection = "NATS_CONNECTION_ERROR", retryable: true, status: 503,
        remedy: "Check that the server runs and that its address and port are the ones configured; the message names the step that failed.";
    /// The NATS server refused the credentials.
    NatsAuthentication = "NATS_AUTHENTICATION_ERROR", retryable: false, status: 500,
        remedy: "Check `nats.user` and `nats.password`, the token or the credentials file against the server's own settings.";
    /// No reply arrived within the timeout.
    NatsTimeout = "NATS_TIMEOUT_ERROR", retryable: true, status: 504,
        remedy: "Try again, or raise `nats.requestTimeoutMs` where the answer takes longer than that by nature.";
    /// A message could not be published.
    NatsPublish = "NATS_PUBLISH_ERROR", retryable: false, status: 500,
        remedy: "Read the reason in the message; a permission of the server is the usual one.";
    /// A subscription could not be made, or ended with an error.
    NatsSubscription = "NATS_SUBSCRIPTION_ERROR", retryable: false, status: 500,
        remedy: "Read the reason in the message; a permission of the server is the usual one.";
    /// Nobody listens on the subject.
    NatsNoResponders = "NATS_NO_RESPONDERS", retryable: true, status: 503,
        remedy: "Check that a worker is up and serves this subject; try again once one is.";
    /// The payload is larger than the server accepts.
    NatsPayloadTooLarge = "NATS_PAYLOAD_TOO_LARGE", retryable: false, status: 413,
        remedy: "Send less, or raise the server's limit (`nats.embedded.maxPayloadBytes`).";
    /// The connection is down, or dropped while the call was under way.
    NatsDisconnected = "NATS_DISCONNECTED", retryable: true, status: 503,
        remedy: "Wait for the connection to come back, then try again; `nats.publishWhileDisconnected: buffer` holds publishes meanwhile.";
    /// The client was shut down, or gave up for good.
    NatsClosed = "NATS_CLOSED", retryable: false, status: 503,
        remedy: "Make a new client; the message says why this one closed.";
    /// A subject, or a token of one, is not valid.
    SubjectInvalid = "SUBJECT_INVALID", retryable: false, status: 400,
        remedy: "Use tokens without whitespace, `.`, `*` and `>`, none of them empty.";
    /// A header of a message is not valid.
    HeaderInvalid = "HEADER_INVALID", retryable: false, status: 400,
        remedy: "Use a name of letters, digits and hyphens, and a value of one line without spaces at its ends.";
    /// A request with this id is being answered already.
    RequestDuplicate = "REQUEST_DUPLICATE", retryable: false, status: 409,
        remedy: "Give each request an id of its own, or wait for the end of the one under way.";
    /// Another worker has the same id, and began later.
    WorkerDuplicate = "WORKER_DUPLICATE", retryable: false, status: 503,
        remedy: "Give each machine a worker id of its own, and do not copy the file that holds it from one to another.";
    /// A peer answered with an error whose code this version does not know.
    Remote = "REMOTE_ERROR", retryable: false, status: 502,
        remedy: "Look the code and the message up in the peer's log; they are the peer's own.";
    /// A handler failed with an error of the application's own.
    Application = "APPLICATION_ERROR", retryable: false, status: 502,
        remedy: "Read the code and the message behind it: the application made them, and says whether asking again may help.";
    /// No worker has the model that was asked for.
    NoWorker = "NO_WORKER", retryable: true, status: 503,
        remedy: "Check the name of the model against those that the message lists; start a worker that has it, or wait for one.";
    /// The request has something that no worker of its model accepts.
    RequestUnsupported = "REQUEST_UNSUPPORTED", retryable: false, status: 400,
        remedy: "Ask without what the message names, or start a worker whose engine takes it: `mlx-node` before a model server's chat does.";
    /// The request broke two workers, or their engines, and is asked of no third one.
    RequestPoisonous = "REQUEST_POISONOUS", retryable: false, status: 502,
        remedy: "Look at the logs of the workers and of their model servers for what the request does to them; do not send it again as it is.";
    /// The worker has no room for another request.
    Overloaded = "OVERLOADED", retryable: true, status: 429,
        remedy: "Try another worker, or the same one a little later.";
    /// The deadline of the request had passed before the work was done.
    DeadlineExceeded = "DEADLINE_EXCEEDED", retryable: false, status: 504,
        remedy: "Give the request more time, or find out what took it.";
    /// A message is not the JSON that its subject carries.
    MessageDecode = "MESSAGE_DECODE_ERROR", retryable: false, status: 400,
        remedy: "Compare the two nodes' versions; the message names the member that does not fit.";
    /// A message decodes, but breaks a rule of its type.
    MessageValidation = "MESSAGE_VALIDATION_ERROR", retryable: false, status: 400,
        remedy: "Correct the member that the message names.";
    /// A frame of a token stream is missing.
    StreamGap = "STREAM_GAP", retryable: false, status: 502,
        remedy: "Send the request again from the start; what came before the gap is incomplete.";
    /// A token stream did not bring its first token in time.
    StreamFirstTokenTimeout = "STREAM_FIRST_TOKEN_TIMEOUT", retryable: true, status: 504,
        remedy: "Try again, or raise `streaming.firstTokenTimeoutMs` where models load on the first request.";
    /// A token stream fell silent between two tokens.
    StreamInterTokenTimeout = "STREAM_INTER_TOKEN_TIMEOUT", retryable: false, status: 504,
        remedy: "Look at the worker's log for the request; send the request again from the start.";
    /// The connection dropped during a token stream, and frames may have been missed.
    StreamDisconnected = "STREAM_DISCONNECTED", retryable: true, status: 503,
        remedy: "Send the request again where no token has come yet; otherwise start anew and drop what came before.";
    /// A token stream was cancelled by its requester.
    StreamCancelled = "STREAM_CANCELLED", retryable: false, status: 503,
        remedy: "Nothing: somebody asked for it.";
    /// The worker serving the request is gone.
    WorkerLost = "WORKER_LOST", retryable: true, status: 503,
        remedy: "Send the request to another worker where no token has come yet; look at the lost worker's log.";
    /// The server does not keep messages (JetStream), or refused to keep this one.
    NatsJetStream = "NATS_JETSTREAM_ERROR", retryable: true, status: 503,
        remedy: "Read the reason in the message; where JetStream is off, set `nats.embedded.jetstream.enabled: true`, or `jetstream` in the external server's own configuration.";
    /// A durable request with this id was asked before, and waits no longer.
    RequestTaken = "REQUEST_TAKEN", retryable: false, status: 409,
        remedy: "Give the request a new id to have it run again; the first run's answer went to the first requester.";
    /// A durable request was given up and kept as a dead letter.
    RequestDead = "REQUEST_DEAD", retryable: false, status: 502,
        remedy: "Read its dead letter, on the subject in the message: it holds the request and the reason. Workers that die of a request are the usual one.";
    /// The receiver was too slow and messages were dropped.
    SlowConsumer = "SLOW_CONSUMER", retryable: false, status: 500,
        remedy: "Take messages faster, or spread them over more subscribers in a queue group.";
    /// A configuration file could not be read.
    ConfigRead = "CONFIG_READ_ERROR", retryable: false, status: 500,
        remedy: "Check that the file exists and may be read; the message names it.";
    /// A configuration file is not well-formed YAML.
    ConfigSyntax = "CONFIG_SYNTAX_ERROR", retryable: false, status: 500,
        remedy: "Correct the file at the line and column in the message.";
    /// A configuration breaks one or more rules.
    ConfigValidation = "CONFIG_VALIDATION_ERROR", retryable: false, status: 500,
        remedy: "Correct the keys that the message names; all of them are listed at once.";
    /// The embedded NATS server failed in a way that no finer code names.
    EmbeddedServer = "EMBEDDED_SERVER_ERROR", retryable: false, status: 500,
        remedy: "Read the reason in the message and the server's own lines in the log.";
    /// No nats-server binary was found.
    EmbeddedServerNotFound = "EMBEDDED_SERVER_NOT_FOUND", retryable: false, status: 500,
        remedy: "Install nats-server, or name one in `nats.embedded.binary` or `MLX_NATS_SERVER`; the message lists where it was looked for.";
    /// The nats-server binary found has a version that is not supported.
    EmbeddedServerVersion = "EMBEDDED_SERVER_VERSION", retryable: false, status: 500,
        remedy: "Install the version that the message asks for, or a newer one.";
    /// The embedded NATS server did not start.
    EmbeddedServerStart = "EMBEDDED_SERVER_START_ERROR", retryable: false, status: 500,
        remedy: "Read the server's last lines in the message; a port in use is the usual reason.";
    /// The embedded NATS server crashed more often than its restart budget allows.
    EmbeddedServerFailed = "EMBEDDED_SERVER_FAILED", retryable: false, status: 500,
        remedy: "Read the server's last lines in the message; restart the node once the cause is gone.";
    /// Nothing can listen at the address: another program has it, or the machine has no such address.
    Listen = "LISTEN_ERROR", retryable: false, status: 500,
        remedy: "End the program that has the port, or set another one: the message names the key.";
    /// Logging could not be set up.
    Log = "LOG_ERROR", retryable: false, status: 500,
        remedy: "Check `logging.file`, the rights on its folder, and `MLX_LOG`.";
    /// A defect in this software, for example a handler that panicked.
    Internal = "INTERNAL_ERROR", retryable: false, status: 500,
        remedy: "Report it, with the log lines around it.";
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The text is none of this version's codes; it may be one of a newer peer or of a TypeScript node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown error code `{}`", .0.escape_debug())]
pub struct UnknownErrorCode(pub String);

impl FromStr for ErrorCode {
    type Err = UnknownErrorCode;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.iter().copied().find(|code| code.as_str() == text).ok_or_else(|| UnknownErrorCode(text.to_owned()))
    }
}

impl TryFrom<&str> for ErrorCode {
    type Error = UnknownErrorCode;

    fn try_from(text: &str) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<ErrorCode> for &'static str {
    fn from(code: ErrorCode) -> Self {
        code.as_str()
    }
}

impl serde::Serialize for ErrorCode {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> serde::Deserialize<'de> for ErrorCode {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}
