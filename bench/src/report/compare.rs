//! What changed since an earlier run. Only ratios are compared: they are what a change of machine, or of its load,
//! leaves alone.

use comfy_table::Table;
use comfy_table::presets::UTF8_BORDERS_ONLY;

use super::table::figure;
use super::{Report, RowReport};
use crate::verdict::Better;

/// Each row of both runs, then and now.
pub fn comparison(earlier: &Report, now: &Report) -> String {
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY);
    table.set_header(["row", "then", "now", "change"]);
    for row in &now.rows {
        let Some(then) = earlier.rows.iter().find(|then| then.id == row.id) else { continue };
        let shown = |row: &RowReport| {
            let estimate = row.estimate;
            format!("{} ({}..{})", figure(estimate.value), figure(estimate.low), figure(estimate.high))
        };
        table.add_row([row.id.clone(), shown(then), shown(row), change(then, row).to_owned()]);
    }
    let mut text = format!("since {}\n{table}", earlier.begun.time);
    if earlier.quick != now.quick {
        text.push_str("\none of the two runs was made with --quick, and so with less work in each measurement");
    }
    if earlier.machine != now.machine {
        text.push_str("\nthe two runs were made on different machines, or with different versions");
    }
    text
}

/// A change is one that the intervals do not explain.
fn change(then: &RowReport, now: &RowReport) -> &'static str {
    let (less, more) = (now.estimate.high < then.estimate.low, now.estimate.low > then.estimate.high);
    match (less, more, now.better) {
        (true, _, Better::Lower) | (_, true, Better::Higher) => "better",
        (true, _, Better::Higher) | (_, true, Better::Lower) => "worse",
        (false, false, _) => "",
    }
}
