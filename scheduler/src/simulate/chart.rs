//! The picture of a run: devices at work by tenant, and films that wait, over time.

use plotters::{
    chart::ChartBuilder,
    drawing::IntoDrawingArea,
    element::Rectangle,
    prelude::SVGBackend,
    series::{AreaSeries, LineSeries},
    style::{BLACK, Color, IntoFont, Palette, Palette99, PaletteColor, RGBColor, WHITE},
};

use super::report::{Report, Sample, clock};

const SIZE: (u32, u32) = (960, 420);
const GREY: RGBColor = RGBColor(120, 120, 120);

/// Most marks of an axis; it has no more than it has whole numbers, since marks are rounded to those.
const MARKS_MAX: usize = 10;

/// Fewer hours would repeat marks of the time, which are minutes.
const TIME_MIN_H: f64 = 0.25;

/// Below so many hours marks of the time are at whole minutes, not at parts of an hour.
const MINUTES_BELOW_H: f64 = 3.0;

/// The error of a drawing library that never fails on text in memory, were it to.
type Drawn<T> = Result<T, Box<dyn std::error::Error>>;

/// An SVG file as text: left axis devices, right axis films that wait.
pub fn svg(report: &Report) -> Drawn<String> {
    let mut text = String::new();
    draw(report, &mut text)?;
    Ok(text)
}

/// The time that the picture shows: where nothing happens for most of it, that in which something does.
fn time(samples: &[Sample]) -> (f64, f64) {
    let (from, to) = (samples[0].at_h, samples[samples.len() - 1].at_h);
    let works = |sample: &&Sample| sample.waiting > 0 || sample.busy.iter().any(|n| *n > 0);
    let mut busy = samples.iter().filter(works).map(|sample| sample.at_h);
    let first = busy.next().unwrap_or(from);
    let last = busy.next_back().unwrap_or(first);
    let wide = (last - first).max(TIME_MIN_H);
    match busy_is_short(wide, to - from) {
        true => {
            let end = (first + wide * 1.1).min(to);
            let begin = (first - wide / 10.0).min(end - wide * 1.2);
            (begin.max(from), end)
        }
        false => (from, to.max(from + 1e-6)),
    }
}

fn busy_is_short(busy_h: f64, whole_h: f64) -> bool {
    busy_h < whole_h / 2.0
}

fn draw(report: &Report, text: &mut String) -> Drawn<()> {
    let area = SVGBackend::with_string(text, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let samples = match report.exact.is_empty() {
        true => &report.samples,
        false => &report.exact,
    };
    let (from, to) = time(samples);
    let samples: Vec<&Sample> = samples
        .iter()
        .filter(|sample| (from..=to).contains(&sample.at_h))
        .collect();
    let waiting = samples.iter().map(|s| s.waiting).max().unwrap_or(0);
    let (waiting, devices) = (waiting.max(1), report.devices.max(1));
    let marks = |most: u64| MARKS_MAX.min(most as usize + 1);
    let (films_marks, devices_marks) = (marks(waiting.into()), marks(devices));
    let unit = if to - from < MINUTES_BELOW_H {
        60.0
    } else {
        1.0
    };
    let (from, to) = (from * unit, to * unit);
    let title = format!(
        "{}: {:.0} % of {} devices at work",
        report.name,
        100.0 * report.utilisation,
        report.devices
    );
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 18).into_font())
        .margin(12)
        .x_label_area_size(32)
        .y_label_area_size(48)
        .right_y_label_area_size(56)
        .build_cartesian_2d(from..to, 0.0..devices as f64 * 1.05)?
        .set_secondary_coord(from..to, 0.0..f64::from(waiting) * 1.05);
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .y_desc("devices")
        .y_labels(devices_marks)
        .y_label_formatter(&|devices| format!("{devices:.0}"))
        .x_label_formatter(&|time| clock(*time / unit))
        .draw()?;
    chart
        .configure_secondary_axes()
        .y_desc("films that wait")
        .y_labels(films_marks)
        .y_label_formatter(&|films| format!("{films:.0}"))
        .draw()?;
    for (index, name) in report.tenants.iter().enumerate().rev() {
        let colour = Palette99::pick(index).to_rgba();
        let tops = samples.iter().map(|s| {
            (
                s.at_h * unit,
                f64::from(s.busy[..=index].iter().sum::<u32>()),
            )
        });
        chart
            .draw_series(AreaSeries::new(tops, 0.0, colour.filled()).border_style(colour))?
            .label(name)
            .legend(move |(x, y)| {
                Rectangle::new(
                    [(x, y - 5), (x + 10, y + 5)],
                    PaletteColor::<Palette99>::pick(index).filled(),
                )
            });
    }
    // A node comes and goes at once; between samples nothing changes.
    let up = samples.windows(2).flat_map(|pair| {
        let (before, after) = (pair[0], pair[1]);
        [before.at_h, after.at_h].map(|at| (at * unit, before.up as f64))
    });
    let last = samples.last().map(|s| (s.at_h * unit, s.up as f64));
    chart
        .draw_series(LineSeries::new(up.chain(last), GREY))?
        .label("devices up")
        .legend(|(x, y)| Rectangle::new([(x, y - 1), (x + 10, y + 1)], GREY.filled()));
    let queue = samples
        .iter()
        .map(|s| (s.at_h * unit, f64::from(s.waiting)));
    chart
        .draw_secondary_series(LineSeries::new(queue, BLACK.stroke_width(2)))?
        .label("films that wait")
        .legend(|(x, y)| Rectangle::new([(x, y - 1), (x + 10, y + 1)], BLACK.filled()));
    chart
        .configure_series_labels()
        .background_style(WHITE.mix(0.8))
        .border_style(GREY)
        .draw()?;
    area.present()?;
    drop(chart);
    Ok(())
}
