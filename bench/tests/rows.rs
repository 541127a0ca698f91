//! Every row can be measured, and what it comes to can be written, read, compared and drawn.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use mlx_bench::arm::{Arm, Samples, Size};
use mlx_bench::machine::{Machine, Moment};
use mlx_bench::part::measure;
use mlx_bench::report::{self, CurveReport, Report, RowReport};
use mlx_bench::rows::rows;
use mlx_bench::run::start_server;
use mlx_bench::sample::Metric;
use mlx_bench::verdict::Verdict;

const PROGRAM: &str = env!("CARGO_BIN_EXE_mlx-bench");

#[tokio::test]
async fn every_row_comes_to_a_figure_that_can_be_kept_and_drawn() {
    let mut rows = rows(Size::Tiny);
    // It comes in ticks of up to 10 ms, and the server has done next to nothing.
    rows.retain(|row| row.metric != Metric::ServerCpu);
    let arms: BTreeSet<Arm> = rows.iter().flat_map(|row| [row.subject, row.reference]).collect();
    let server = start_server().await.unwrap();
    let mut samples = Samples::new();
    for arm in arms {
        let work = arm.workload.work(arm.count, Size::Tiny);
        let sample = measure(Path::new(PROGRAM), &server, arm, work).await.unwrap_or_else(|error| panic!("{error:#}"));
        samples.insert(arm, vec![sample]);
    }
    let rows: Vec<_> = rows.iter().map(|row| RowReport::new(row, &samples).unwrap()).collect();
    for row in &rows {
        assert!(row.subject.summary.median > 0.0, "{}", row.id);
        assert_eq!(row.verdict == Verdict::Shown, row.target.is_none(), "{}", row.id);
    }
    let points = rows.iter().map(|row| (row.subject.arm, row.subject.summary)).collect();
    let report = Report {
        format: Report::FORMAT,
        machine: Machine::here(server.binary().version.to_string()).unwrap(),
        begun: Moment::now().unwrap(),
        ended: Moment::now().unwrap(),
        quick: true,
        rounds: 1,
        rows,
        curves: vec![CurveReport { id: "all".into(), title: "all".into(), unit: "us".into(), points }],
    };

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("report.json");
    report.write(&file).unwrap();
    let read = Report::read(&file).unwrap();
    assert_eq!(read.rows.len(), report.rows.len());
    let table = report::table(&read);
    let comparison = report::comparison(&read, &report);
    for row in &report.rows {
        assert!(table.contains(&row.id) && comparison.contains(&row.id), "{}", row.id);
    }
    assert!(!comparison.contains("worse") && !comparison.contains("better"), "{comparison}");
    for file in report::plot(&report, &folder.path().join("plots")).unwrap() {
        let drawing = std::fs::read_to_string(&file).unwrap();
        assert!(drawing.starts_with("<svg") && drawing.trim_end().ends_with("</svg>"), "{}", file.display());
    }
}

#[test]
fn a_row_that_there_is_not_is_an_error_of_the_command_line() {
    let output = Command::new(PROGRAM).args(["--only", "heartbeat"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("heartbeats"), "{output:?}");
}

#[test]
fn a_file_to_compare_with_that_there_is_not_is_said_before_anything_is_measured() {
    let output = Command::new(PROGRAM).args(["--compare", "/nowhere/at/all.json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nowhere/at/all.json"), "{output:?}");
}

#[test]
fn the_list_names_every_row_and_its_bounds() {
    let output = Command::new(PROGRAM).arg("--list").output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let list = String::from_utf8(output.stdout).unwrap();
    for row in rows(Size::Full) {
        assert!(list.contains(row.id), "{list}");
    }
    assert!(list.contains(">= 0.95"), "{list}");
}
