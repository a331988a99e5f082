//! A drawing of progress and of what racks carried.

use std::io;

use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

use super::figures::{Figures, Report};

/// Pixels of the drawing's width, and of the height of each strategy.
const WIDTH: u32 = 1100;
const HEIGHT: u32 = 340;
/// Pixels of the part that shows progress.
const PROGRESS_WIDTH: u32 = 720;
const FONT: &str = "sans-serif";

const BLUE_INK: RGBColor = RGBColor(31, 93, 168);
const ORANGE_INK: RGBColor = RGBColor(214, 108, 18);
const GREY_INK: RGBColor = RGBColor(150, 156, 164);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Chart<'a> = ChartContext<'a, SVGBackend<'a>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;
type Wrong = DrawingAreaErrorKind<io::Error>;

/// Draws a row for each strategy: percentiles of progress over time, and copies that came into each rack.
pub fn draw(report: &Report) -> Result<String, Wrong> {
    let mut text = String::new();
    let rows = report.strategies.len() as u32;
    {
        let root = SVGBackend::with_string(&mut text, (WIDTH, HEIGHT * rows)).into_drawing_area();
        root.fill(&WHITE)?;
        for (area, figures) in root.split_evenly((rows as usize, 1)).iter().zip(&report.strategies) {
            let (left, right) = area.split_horizontally(PROGRESS_WIDTH);
            progress(&left, figures)?;
            racks(&right, figures)?;
        }
        root.present()?;
    }
    Ok(text)
}

fn progress(area: &Area<'_>, figures: &Figures) -> Result<(), Wrong> {
    let end_s = figures.progress.last().map_or(1.0, |moment| moment.at_s).max(1e-9);
    let mut chart = ChartBuilder::on(area)
        .caption(format!("{}, simulated: what receivers have", figures.strategy), (FONT, 22))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(56)
        .build_cartesian_2d(0.0..end_s, 0.0..1.02)?;
    let percent = |share: &f64| format!("{:.0} %", share * 100.0);
    chart
        .configure_mesh()
        .x_desc("seconds")
        .y_label_formatter(&percent)
        .max_light_lines(0)
        .label_style((FONT, 15))
        .draw()?;
    let line = |at: usize| figures.progress.iter().map(move |moment| (moment.at_s, moment.shares[at]));
    let bands = [(0, 4, 0.12, "all receivers, share of bytes"), (1, 3, 0.28, "90 % of them, share of bytes")];
    for (low, high, depth, label) in bands {
        let mut outline: Vec<(f64, f64)> = line(high).collect();
        outline.extend(line(low).collect::<Vec<_>>().into_iter().rev());
        let style = BLUE_INK.mix(depth).filled();
        chart
            .draw_series(std::iter::once(Polygon::new(outline, style)))?
            .label(label)
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 18, y + 5)], style));
    }
    chart
        .draw_series(LineSeries::new(line(2), BLUE_INK.stroke_width(2)))?
        .label("the median receiver, share of bytes")
        .legend(|(x, y)| PathElement::new([(x, y), (x + 18, y)], BLUE_INK.stroke_width(2)));
    let finished = figures.progress.iter().map(|moment| (moment.at_s, moment.finished));
    chart
        .draw_series(LineSeries::new(finished, ORANGE_INK.stroke_width(2)))?
        .label("share of receivers that have everything")
        .legend(|(x, y)| PathElement::new([(x, y), (x + 18, y)], ORANGE_INK.stroke_width(2)));
    legend(&mut chart, SeriesLabelPosition::UpperLeft)
}

fn racks(area: &Area<'_>, figures: &Figures) -> Result<(), Wrong> {
    let copies = &figures.rack_copies;
    let most = copies.iter().map(|rack| rack.from_others + rack.within).fold(1.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .caption("copies of the chunk by rack", (FONT, 22))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(56)
        .build_cartesian_2d(0.0..copies.len().max(1) as f64, 0.0..most * 1.25)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_desc("rack, that of the source first")
        .x_labels(copies.len().min(10) + 1)
        .x_label_formatter(&|rack: &f64| {
            if rack.fract() == 0.0 { format!("{rack:.0}") } else { String::new() }
        })
        .max_light_lines(0)
        .label_style((FONT, 15))
        .draw()?;
    let bar = |at: usize, from: f64, to: f64, ink: RGBColor| {
        let left = at as f64;
        Rectangle::new([(left + 0.1, from), (left + 0.9, to)], ink.filled())
    };
    let within = copies
        .iter()
        .enumerate()
        .map(|(at, rack)| bar(at, rack.from_others, rack.from_others + rack.within, GREY_INK));
    chart
        .draw_series(within)?
        .label("from node to node within")
        .legend(|(x, y)| Rectangle::new([(x, y - 5), (x + 18, y + 5)], GREY_INK.filled()));
    let from_others = copies.iter().enumerate().map(|(at, rack)| bar(at, 0.0, rack.from_others, ORANGE_INK));
    chart
        .draw_series(from_others)?
        .label("from other racks")
        .legend(|(x, y)| Rectangle::new([(x, y - 5), (x + 18, y + 5)], ORANGE_INK.filled()));
    legend(&mut chart, SeriesLabelPosition::UpperRight)
}

/// Says in a corner what the colours are.
fn legend<'a>(chart: &mut Chart<'a>, corner: SeriesLabelPosition) -> Result<(), Wrong> {
    chart
        .configure_series_labels()
        .position(corner)
        .label_font((FONT, 15))
        .background_style(WHITE.mix(0.8))
        .border_style(GREY_INK)
        .draw()?;
    Ok(())
}
