//! How the prompts went.

use comfy_table::{CellAlignment, Table, presets};
use mlx_nats::StreamSummary;

/// How one prompt went.
pub(super) struct Outcome {
    /// The worker that answered, by number and process id.
    pub(super) worker: String,
    /// The figures of the stream.
    pub(super) summary: StreamSummary,
    /// The code of the error that it ended with.
    pub(super) error: Option<String>,
}

/// The closing table: one row a prompt, in their order.
pub(super) fn table(outcomes: &[Outcome]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["prompt", "worker", "tokens", "first token", "tokens/s", "ended"]);
    for (number, outcome) in outcomes.iter().enumerate() {
        let first = outcome.summary.time_to_first_token;
        table.add_row([
            (number + 1).to_string(),
            outcome.worker.clone(),
            outcome.summary.tokens.to_string(),
            first.map_or_else(|| "-".to_owned(), |first| format!("{:.1} ms", first.as_secs_f64() * 1000.0)),
            rate(&outcome.summary).map_or_else(|| "-".to_owned(), |rate| format!("{rate:.1}")),
            outcome.error.clone().unwrap_or_else(|| {
                outcome.summary.finish_reason.as_ref().map_or("done", |reason| reason.as_str()).to_owned()
            }),
        ]);
    }
    for column in [0, 2, 3, 4] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
/// Tokens in a second once they flow: the wait for the first one is told apart.
fn rate(summary: &StreamSummary) -> Option<f64> {
    let flowing = summary.duration.checked_sub(summary.time_to_first_token?)?.as_secs_f64();
    (summary.tokens > 1 && flowing > 0.0).then(|| (summary.tokens - 1) as f64 / flowing)
}
