//! Names of the headers that travel beside payloads, each in this one place. Their case counts.

/// On a request: the kinds of frame that the requester reads beyond the plain ones ([`ACCEPT_TOKENS`], [`ACCEPT_DELTA`],
/// [`ACCEPT_EPOCH`]), separated by commas.
pub const ACCEPT: &str = "Mlx-Accept";
/// In [`ACCEPT`]: frames of several tokens.
pub const ACCEPT_TOKENS: &str = "tokens";
/// In [`ACCEPT`]: frames that bring what a token cannot say.
pub const ACCEPT_DELTA: &str = "delta";
/// In [`ACCEPT`]: plain frames that say which incarnation sends them. A reader of any other kind reads these too.
pub const ACCEPT_EPOCH: &str = "epoch";
/// On a request: its absolute deadline, in milliseconds since the Unix epoch.
pub const DEADLINE: &str = "Mlx-Deadline";
/// On an acceptance: the incarnation of the worker, in milliseconds since the Unix epoch.
pub const EPOCH: &str = "Mlx-Epoch";
/// On a cancellation: the reply inbox of the request that is meant, should another one have the same id.
pub const REPLY: &str = "Mlx-Reply";
/// On the first frame that answers a queued request: the id of the worker.
pub const WORKER: &str = "Mlx-Worker";
/// On the frames that answer a queued request: which delivery of it this is, where not the first.
pub const ATTEMPT: &str = "Mlx-Attempt";
/// On an error reply: its stable code.
pub const ERROR_CODE: &str = "Mlx-Error-Code";
/// On a dead letter: why the request was given up, for people.
pub const DEAD_REASON: &str = "Mlx-Dead-Reason";
/// On a dead letter: the stable code of that, for programs.
pub const DEAD_CODE: &str = "Mlx-Dead-Code";
/// On a dead letter: how often the request was handed to a worker.
pub const DEAD_DELIVERIES: &str = "Mlx-Deliveries";
/// On a dead letter: how long the payload was, where it had to be left out.
pub const DEAD_OMITTED_BYTES: &str = "Mlx-Dead-Omitted-Bytes";
/// What JetStream knows a message by, to keep it once.
pub const MESSAGE_ID: &str = "Nats-Msg-Id";
/// On an error reply: its message, as the convention of NATS services has it.
pub const SERVICE_ERROR: &str = "Nats-Service-Error";
/// On an error reply: a numeric code (an HTTP status), as the convention of NATS services has it.
pub const SERVICE_ERROR_CODE: &str = "Nats-Service-Error-Code";
