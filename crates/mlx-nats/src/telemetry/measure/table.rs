//! The names, which dashboards and alerts are built on: they stay as they are.

use metrics::Unit;

pub(super) const PUBLISHED_MESSAGES: &str = "mlx_nats_published_messages_total";
pub(super) const PUBLISHED_BYTES: &str = "mlx_nats_published_bytes_total";
pub(super) const RECEIVED_MESSAGES: &str = "mlx_nats_received_messages_total";
pub(super) const RECEIVED_BYTES: &str = "mlx_nats_received_bytes_total";
pub(super) const DECODE_ERRORS: &str = "mlx_nats_decode_errors_total";
pub(super) const DROPPED_MESSAGES: &str = "mlx_nats_dropped_messages_total";
pub(super) const REFUSED_PUBLISHES: &str = "mlx_nats_refused_publishes_total";
pub(super) const FOREIGN_FRAMES: &str = "mlx_nats_foreign_frames_total";
pub(super) const CONNECTIONS: &str = "mlx_nats_connections";
pub(super) const RECONNECTS: &str = "mlx_nats_reconnects_total";
pub(super) const CLOSED_CONNECTIONS: &str = "mlx_nats_closed_connections_total";
pub(super) const REQUESTS: &str = "mlx_nats_requests_total";
pub(super) const REQUEST_DURATION: &str = "mlx_nats_request_duration_seconds";
pub(super) const HANDLERS_RUNNING: &str = "mlx_nats_handlers_running";
pub(super) const HANDLER_DURATION: &str = "mlx_nats_handler_duration_seconds";
pub(super) const REFUSED_REQUESTS: &str = "mlx_nats_refused_requests_total";
pub(super) const STREAMS: &str = "mlx_nats_streams_total";
pub(super) const STREAMS_RUNNING: &str = "mlx_nats_streams_running";
pub(super) const STREAM_TOKENS: &str = "mlx_nats_stream_tokens_total";
pub(super) const STREAM_DURATION: &str = "mlx_nats_stream_duration_seconds";
pub(super) const DISPATCH_RETRIES: &str = "mlx_nats_dispatch_retries_total";
pub(super) const FIRST_TOKEN: &str = "mlx_nats_stream_first_token_seconds";

/// Tells the recorder what each name means.
pub(super) fn describe() {
    for (name, unit, help) in [
        (PUBLISHED_MESSAGES, Unit::Count, "Messages handed to the connection, replies and frames among them."),
        (PUBLISHED_BYTES, Unit::Bytes, "Payload bytes of the published messages."),
        (RECEIVED_MESSAGES, Unit::Count, "Messages that came by subscriptions, services, streams and as answers."),
        (RECEIVED_BYTES, Unit::Bytes, "Payload bytes of the received messages."),
        (DECODE_ERRORS, Unit::Count, "Received messages that are not what their subject carries, by error code."),
        (DROPPED_MESSAGES, Unit::Count, "Messages dropped because the reader of a subscription was too slow."),
        (REFUSED_PUBLISHES, Unit::Count, "Publishes that the server refused, for want of a permission."),
        (FOREIGN_FRAMES, Unit::Count, "Frames that were dropped because they belong to another answer."),
        (RECONNECTS, Unit::Count, "Connections proved again after a drop."),
        (CLOSED_CONNECTIONS, Unit::Count, "Connections that are over for good, by reason."),
        (REQUESTS, Unit::Count, "Requests made, by outcome."),
        (REFUSED_REQUESTS, Unit::Count, "Requests that a service answered with an error, by its code."),
        (STREAMS, Unit::Count, "Token streams asked for that have ended, by outcome."),
        (DISPATCH_RETRIES, Unit::Count, "Requests that a dispatcher asked of another worker, after one had failed."),
        (STREAM_TOKENS, Unit::Count, "Tokens received by streams."),
    ] {
        metrics::describe_counter!(name, unit, help);
    }
    for (name, help) in [
        (CONNECTIONS, "Connections, by state."),
        (HANDLERS_RUNNING, "Handlers that are running now, by kind of service."),
        (STREAMS_RUNNING, "Token streams asked for that are running now."),
    ] {
        metrics::describe_gauge!(name, Unit::Count, help);
    }
    for (name, help) in [
        (REQUEST_DURATION, "From a request to its answer or failure."),
        (HANDLER_DURATION, "What handlers took, by kind of service."),
        (STREAM_DURATION, "From the request of a token stream to its end."),
        (FIRST_TOKEN, "From the request of a token stream to its first token."),
    ] {
        metrics::describe_histogram!(name, Unit::Seconds, help);
    }
}
