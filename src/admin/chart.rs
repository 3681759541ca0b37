//! A small chart of what the store did in the last minutes: lines for those who see, and a table of the same for all.

use std::fmt::Write;

use maud::{Markup, html};

use super::samples::Sample;
use super::shown;
use crate::clock::Timestamp;

/// The drawing's size, in units of its own.
const WIDTH: f64 = 320.0;
const HEIGHT: f64 = 80.0;

/// Most rows of the table.
const ROWS_MAX: usize = 30;

/// One line of the chart.
struct Series {
    name: &'static str,
    unit: &'static str,
    /// What it was between two samples.
    between: fn(&Sample, &Sample) -> f64,
}

const SERIES: [Series; 2] = [
    Series { name: "Claims", unit: "a second", between: claims_a_second },
    Series { name: "Sync", unit: "ms, 99 of 100 at most", between: |_, to| to.sync.as_secs_f64() * 1000.0 },
];

#[allow(clippy::cast_precision_loss, reason = "a drawing, and counts over 2^53 are a way off")]
fn claims_a_second(from: &Sample, to: &Sample) -> f64 {
    to.claims.saturating_sub(from.claims) as f64 / to.at.since(from.at).as_secs_f64().max(0.001)
}

/// The values of one line, each with the moment at its end.
fn line(series: &Series, samples: &[Sample]) -> Vec<(Timestamp, f64)> {
    let pairs = samples.windows(2).filter_map(|pair| Some((pair.first()?, pair.last()?)));
    pairs.map(|(from, to)| (to.at, (series.between)(from, to))).collect()
}

/// All lines, and the table.
pub(super) fn chart(samples: &[Sample]) -> Markup {
    let lines: Vec<_> = SERIES.iter().map(|series| (series, line(series, samples))).collect();
    let (Some(first), Some(last)) = (samples.first(), samples.last()) else { return html! {} };
    if samples.len() < 2 {
        let told = "The chart begins with the next look: it is drawn of the figures that were looked at.";
        return html! { p.quiet { (told) } };
    }
    html! {
        div.charts { @for (series, line) in &lines { (figure(series, line, first.at, last.at)) } }
        details id="chart-table" {
            summary { "The chart as a table" }
            table {
                caption { "The last looks, newest first" }
                thead { tr {
                    th scope="col" { "Until (UTC)" }
                    @for (series, _) in &lines { th.number scope="col" { (series.name) " " (series.unit) } }
                } }
                tbody { @for row in 0..samples.len().saturating_sub(1).min(ROWS_MAX) { tr {
                    @let values = lines.iter().filter_map(|(_, line)| line.iter().rev().nth(row));
                    @for (nth, (at, value)) in values.enumerate() {
                        @if nth == 0 { th scope="row" { (shown::time(*at)) } }
                        td.number { (rounded(*value)) }
                    }
                } } }
            }
        }
    }
}

fn figure(series: &Series, line: &[(Timestamp, f64)], from: Timestamp, to: Timestamp) -> Markup {
    let top = line.iter().fold(0.0, |top: f64, (_, value)| top.max(*value));
    let now = line.last().map_or(0.0, |(_, value)| *value);
    let (unit, ago) = (series.unit, shown::span(to.since(from)));
    let told = format!("{} {unit} in the last {ago}: at most {}, now {}", series.name, rounded(top), rounded(now));
    html! {
        figure {
            figcaption { (series.name) " " (unit) ": " strong { (rounded(now)) } }
            svg role="img" aria-label=(told) viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } preserveAspectRatio="none" {
                line.axis x1="0" y1=(HEIGHT) x2=(WIDTH) y2=(HEIGHT) {}
                polyline.line points=(points(line, from, to, top)) {}
            }
            p.axis-text aria-hidden="true" { span { (ago) " ago" } span { "at most " (rounded(top)) } span { "now" } }
        }
    }
}

/// Where the line goes: time from left to right, and its highest value just under the upper edge.
#[allow(clippy::cast_precision_loss, reason = "a drawing")]
fn points(line: &[(Timestamp, f64)], from: Timestamp, to: Timestamp, top: f64) -> String {
    let width = (to.since(from).as_millis() as f64).max(1.0);
    let mut points = String::new();
    for (at, value) in line {
        let x = at.since(from).as_millis() as f64 / width * WIDTH;
        let y = HEIGHT - 1.0 - if top > 0.0 { value / top * (HEIGHT - 4.0) } else { 0.0 };
        write!(points, "{x:.1},{y:.1} ").ok();
    }
    points
}

/// A figure as people read it.
fn rounded(value: f64) -> String {
    match value {
        _ if value >= 100.0 || value.fract() == 0.0 => format!("{value:.0}"),
        _ if value >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn sample(seconds: u64, claims: u64) -> Sample {
        Sample { at: Timestamp::from_millis(seconds * 1000), claims, sync: Duration::from_micros(250) }
    }

    #[test]
    fn a_line_is_what_happened_a_second_between_looks() {
        let samples = [sample(10, 100), sample(12, 140), sample(22, 140), sample(23, 0)];
        let values: Vec<f64> = line(&SERIES[0], &samples).into_iter().map(|(_, value)| value).collect();
        assert_eq!(values, [20.0, 0.0, 0.0]);
        let drawn = points(&line(&SERIES[0], &samples), samples[0].at, samples[3].at, 20.0);
        assert_eq!(drawn, "49.2,3.0 295.4,79.0 320.0,79.0 ");
    }

    #[test]
    fn every_chart_is_told_in_words_and_in_a_table() {
        assert_eq!(chart(&[]).into_string(), "");
        assert!(chart(&[sample(1, 1)]).into_string().contains("begins with the next look"));
        let shown = chart(&[sample(10, 100), sample(12, 140)]).into_string();
        assert!(shown.contains("aria-label=\"Claims a second in the last 2.0 s: at most 20, now 20\""), "{shown}");
        assert!(
            shown.contains("aria-label=\"Sync ms, 99 of 100 at most in the last 2.0 s: at most 0.25, now 0.25\""),
            "{shown}"
        );
        assert_eq!((shown.matches("<svg").count(), shown.matches("<td").count()), (2, 2));
        let still = chart(&[sample(10, 100), sample(12, 100)]).into_string();
        assert!(still.contains("320.0,79.0") && !still.contains("NaN"), "{still}");
    }
}
