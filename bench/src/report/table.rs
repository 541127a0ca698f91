//! The table that people read.

use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{CellAlignment, Table};

use super::{Report, RowReport};
use crate::rows::Row;
use crate::stats::{Relation, Summary};

/// Every row, what it came to, and the circumstances.
pub fn table(report: &Report) -> String {
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY);
    table.set_header(["row", "ours", "±", "beside it", "±", "ratio", "95 %", "must", "hope", "verdict"]);
    for row in &report.rows {
        table.add_row(cells(row));
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let (machine, begun, ended) = (&report.machine, &report.begun, &report.ended);
    let tails: Vec<String> = report.rows.iter().filter_map(tail).collect();
    format!(
        "{table}\n{}\n{} rounds{}, {} to {}, load {:.1} to {:.1}\n{}, {} cores, {} MiB, {}, kernel {}\nnats-server {}, mlx-bench {}",
        tails.join("\n"),
        report.rounds,
        if report.quick { " of --quick" } else { "" },
        begun.time,
        ended.time,
        begun.load,
        ended.load,
        machine.processor,
        machine.cores,
        machine.memory,
        machine.system,
        machine.kernel,
        machine.nats_server,
        machine.mlx_bench,
    )
}

fn cells(row: &RowReport) -> Vec<String> {
    let unit = &row.unit;
    let middle = |summary: &Summary| match unit.as_str() {
        "us" if summary.median >= 1_000.0 => format!("{} ms", figure(summary.median / 1_000.0)),
        _ => format!("{} {unit}", figure(summary.median)),
    };
    let spread = |summary: &Summary| format!("{:.0} %", summary.spread() * 50.0);
    let related = |value: f64| match row.relation {
        Relation::Ratio => format!("{value:.2}"),
        Relation::Difference => format!("{value:+.2} {unit}"),
        Relation::Alone => format!("{} {unit}", figure(value)),
    };
    let bound = |value: Option<f64>| value.map_or_else(String::new, |value| format!("{} {value}", row.better.sign()));
    vec![
        row.id.clone(),
        middle(&row.subject.summary),
        spread(&row.subject.summary),
        middle(&row.reference.summary),
        spread(&row.reference.summary),
        related(row.estimate.value),
        format!("{}..{}", figure(row.estimate.low), figure(row.estimate.high)),
        bound(row.target.map(|target| target.must)),
        bound(row.target.map(|target| target.reach)),
        row.verdict.to_string(),
    ]
}

/// The slow end of the latencies: shown, and not judged.
fn tail(row: &RowReport) -> Option<String> {
    let slow = |side: &super::ArmReport| Some(format!("{} {:.2} ms", side.label(), side.quantile(0.99)? / 1_000.0));
    Some(format!("{}: p99 {}, {}", row.id, slow(&row.subject)?, slow(&row.reference)?))
}

/// Three digits that count, and a unit's thousands where there are many.
pub(super) fn figure(value: f64) -> String {
    match value.abs() {
        large if large >= 1_000_000.0 => format!("{:.2}M", value / 1e6),
        large if large >= 10_000.0 => format!("{:.1}k", value / 1e3),
        large if large >= 100.0 => format!("{value:.0}"),
        medium if medium >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// The rows and what each has to reach.
pub fn list(rows: &[Row]) -> String {
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY);
    table.set_header(["row", "what it measures", "figure", "must", "hope"]);
    for row in rows {
        let figure = match row.relation {
            Relation::Ratio => "ratio".to_owned(),
            Relation::Difference | Relation::Alone => row.metric.unit().to_owned(),
        };
        let bound =
            |value: Option<f64>| value.map_or_else(String::new, |value| format!("{} {value}", row.better.sign()));
        let [must, reach] = [row.target.map(|target| target.must), row.target.map(|target| target.reach)].map(bound);
        table.add_row([row.id.to_owned(), row.title.to_owned(), figure, must, reach]);
    }
    table.to_string()
}
