//! The results as drawings: latencies by share of messages, figures side by side, cost against count.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};
use plotters::prelude::*;

use super::{ArmReport, CurveReport, Report, RowReport};
use crate::arm::Side;
use crate::stats::Relation;

const SIZE: (u32, u32) = (800, 480);
const FONT: &str = "sans-serif";
const BACKGROUND: RGBColor = WHITE;

/// Draws everything into `folder`, which is made if need be; the files.
///
/// # Errors
/// When a file cannot be written.
pub fn plot(report: &Report, folder: &Path) -> Result<Vec<PathBuf>> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut files = Vec::new();
    let mut draw = |name: String, drawing: &dyn Fn(&Path) -> Result<()>| {
        let file = folder.join(format!("{name}.svg"));
        drawing(&file).with_context(|| format!("cannot draw {}", file.display()))?;
        files.push(file);
        anyhow::Ok(())
    };
    for row in report.rows.iter().filter(|row| !row.subject.quantiles.is_empty()) {
        draw(format!("latency-{}", row.id), &|file| latencies(row, file))?;
    }
    draw("ratios".to_owned(), &|file| ratios(report, file))?;
    for curve in report.curves.iter().filter(|curve| !curve.points.is_empty()) {
        draw(format!("scaling-{}", curve.id), &|file| scaling(curve, file))?;
    }
    Ok(files)
}

fn colour(side: Side) -> RGBColor {
    match side {
        Side::Ours => RGBColor(0x1f, 0x6f, 0xb4),
        Side::OursPlain => RGBColor(0x2c, 0xa0, 0x5a),
        Side::Raw => RGBColor(0xd9, 0x6b, 0x0b),
        Side::Bare => RGBColor(0x77, 0x77, 0x77),
    }
}

/// Latency in us against the share of messages that take longer, both in powers of ten.
fn latencies(row: &RowReport, file: &Path) -> Result<()> {
    // The slowest of all has no share left; it is drawn where one in ten thousand is.
    let points = |side: &ArmReport| -> Vec<(f64, f64)> {
        side.quantiles.iter().map(|(share, micros)| ((1.0 - share).max(1e-4), micros.max(0.1))).collect()
    };
    let sides = [&row.subject, &row.reference];
    let all: Vec<f64> = sides.iter().flat_map(|side| points(side)).map(|(_, micros)| micros).collect();
    let (low, high) = range(&all);
    let root = SVGBackend::new(file, SIZE).into_drawing_area();
    root.fill(&BACKGROUND).map_err(drawn)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(&row.title, (FONT, 20))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(70)
        .build_cartesian_2d((1e-4..1.0_f64).log_scale(), (low..high).log_scale())
        .map_err(drawn)?;
    chart
        .configure_mesh()
        .x_desc("share of messages that take longer")
        .y_desc("us")
        .x_label_formatter(&|share| format!("{share}"))
        .draw()
        .map_err(drawn)?;
    for side in sides {
        let colour = colour(side.arm.side);
        chart
            .draw_series(LineSeries::new(points(side), colour.stroke_width(2)))
            .map_err(drawn)?
            .label(side.label())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
    }
    chart.configure_series_labels().background_style(BACKGROUND).border_style(BLACK).draw().map_err(drawn)?;
    root.present().map_err(drawn)
}

/// Each row's ratio with its interval; right of 1 is ahead, whichever way the row counts.
fn ratios(report: &Report, file: &Path) -> Result<()> {
    let rows: Vec<&RowReport> = report.rows.iter().filter(|row| row.relation == Relation::Ratio).collect();
    let ahead = |row: &RowReport, ratio: f64| match row.better {
        crate::verdict::Better::Higher => ratio,
        crate::verdict::Better::Lower => 1.0 / ratio,
    };
    let ends: Vec<f64> = rows
        .iter()
        .flat_map(|row| [row.estimate.low, row.estimate.high].map(|end| ahead(row, end)))
        .chain([1.0])
        .collect();
    let (low, high) = range(&ends);
    let names: Vec<&str> = rows.iter().map(|row| row.id.as_str()).collect();
    let height = u32::try_from(rows.len())? * 28 + 110;
    let root = SVGBackend::new(file, (SIZE.0, height)).into_drawing_area();
    root.fill(&BACKGROUND).map_err(drawn)?;
    let count = i32::try_from(rows.len())?;
    let mut chart = ChartBuilder::on(&root)
        .caption("ours beside the reference, 95 % interval", (FONT, 20))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(170)
        .build_cartesian_2d((low..high).log_scale(), (0..count).into_segmented())
        .map_err(drawn)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .x_desc("times as good as the reference")
        .y_labels(rows.len())
        .y_label_formatter(&|place| match place {
            SegmentValue::CenterOf(place) => usize::try_from(*place)
                .ok()
                .and_then(|place| names.get(place))
                .map_or_else(String::new, |name| (*name).to_owned()),
            _ => String::new(),
        })
        .draw()
        .map_err(drawn)?;
    let bars = rows.iter().zip(0..).map(|(row, place)| {
        let colour = colour(row.subject.arm.side);
        let at = |ratio: f64| (ahead(row, ratio), SegmentValue::CenterOf(place));
        (
            PathElement::new([at(row.estimate.low), at(row.estimate.high)], colour.stroke_width(8)),
            at(row.estimate.value),
        )
    });
    let (lines, points): (Vec<_>, Vec<_>) = bars.unzip();
    chart.draw_series(lines).map_err(drawn)?;
    chart.draw_series(points.into_iter().map(|point| Circle::new(point, 4, BLACK.filled()))).map_err(drawn)?;
    let even = [(1.0, SegmentValue::Exact(0)), (1.0, SegmentValue::Last)];
    chart.draw_series([PathElement::new(even, BLACK.stroke_width(1))]).map_err(drawn)?;
    root.present().map_err(drawn)
}

/// Cost against count, both in powers of ten: a line that stays level costs the same for each.
fn scaling(curve: &CurveReport, file: &Path) -> Result<()> {
    #[expect(clippy::cast_precision_loss, reason = "for a drawing")]
    let count = |count: u64| count as f64;
    let counts: Vec<f64> = curve.points.iter().map(|(arm, _)| count(arm.count)).collect();
    let costs: Vec<f64> = curve.points.iter().flat_map(|(_, cost)| [cost.min, cost.max]).collect();
    let ((left, right), (low, high)) = (range(&counts), range(&costs));
    let root = SVGBackend::new(file, SIZE).into_drawing_area();
    root.fill(&BACKGROUND).map_err(drawn)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(&curve.title, (FONT, 20))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(70)
        .build_cartesian_2d((left..right).log_scale(), (low..high).log_scale())
        .map_err(drawn)?;
    chart.configure_mesh().y_desc(&curve.unit).draw().map_err(drawn)?;
    for side in [Side::Ours, Side::OursPlain, Side::Raw, Side::Bare] {
        let points: Vec<(f64, f64)> = curve
            .points
            .iter()
            .filter(|(arm, _)| arm.side == side)
            .map(|(arm, cost)| (count(arm.count), cost.median))
            .collect();
        if points.is_empty() {
            continue;
        }
        let colour = colour(side);
        chart
            .draw_series(LineSeries::new(points, colour.stroke_width(2)).point_size(3))
            .map_err(drawn)?
            .label(side.to_string())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
    }
    chart.configure_series_labels().background_style(BACKGROUND).border_style(BLACK).draw().map_err(drawn)?;
    root.present().map_err(drawn)
}

/// From a little below the least to a little above the greatest; never empty.
fn range(values: &[f64]) -> (f64, f64) {
    let least = values.iter().copied().filter(|value| *value > 0.0).fold(f64::INFINITY, f64::min);
    let greatest = values.iter().copied().fold(0.0, f64::max);
    if least.is_finite() { (least * 0.8, greatest * 1.25) } else { (0.1, 10.0) }
}

/// Some of these errors borrow from what they are about.
fn drawn(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("{error}")
}
