//! Charts of the results: panels of bars, longest first, in SVG.

use std::path::Path;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::contenders::Name;
use crate::goals::shown;
use crate::report::number;
use crate::rows::{Results, Row};
use crate::work::{Callers, Load, Mode, Work};

const WIDTH: u32 = 960;
const HEAD: u32 = 46;
const COLUMNS: usize = 2;
const BAR: i32 = 16;
const GAP: i32 = 5;
const LABEL: i32 = 106;
const FIGURE: i32 = 74;
const FONT: &str = "sans-serif";

/// Bars of one question.
struct Panel {
    title: String,
    bars: Vec<(Name, f64)>,
}

/// A file of panels.
struct Chart {
    file: String,
    title: String,
    panels: Vec<Panel>,
}

/// Writes every chart that the results have rows for; tells their files and titles.
pub(crate) fn write(results: &Results, folder: &Path) -> Result<Vec<(String, String)>, String> {
    let mut written = Vec::new();
    for mode in [Mode::Fixed, Mode::Disk] {
        for mut chart in charts(results, mode) {
            chart.panels.retain(|panel| panel.bars.len() > 1);
            if !chart.panels.is_empty() {
                chart.draw(&folder.join(&chart.file)).map_err(|error| format!("{}: {error}", chart.file))?;
                written.push((chart.file, chart.title));
            }
        }
    }
    Ok(written)
}

fn charts(results: &Results, mode: Mode) -> Vec<Chart> {
    let rows: Vec<&Row> = results.rows.iter().filter(|row| row.mode == mode).collect();
    let Some(smallest) = rows.iter().map(|row| (row.payload_bytes, row.load())).min().map(|(_, load)| load) else {
        return Vec::new();
    };
    let least = rows.iter().map(|row| row.size).min().unwrap_or(0);
    let of_work = |work: Work, size: u64, load: Load| -> Vec<&Row> {
        rows.iter().filter(|row| (row.work, row.size, row.load()) == (work, size, load)).copied().collect()
    };
    let how = match mode {
        Mode::Fixed => "every sync takes the same time",
        Mode::Disk => "on the disk as it was",
    };
    let chart = |name: &str, title: &str, panels: Vec<Panel>| Chart {
        file: format!("{name}-{mode}.svg"),
        title: format!("{title}; {how}"),
        panels,
    };
    let by_callers = |work: Work, size: u64| panels(&of_work(work, size, smallest), |by| by.to_string());
    let mut sizes: Vec<u64> = rows.iter().map(|row| row.size).collect();
    sizes.sort_unstable();
    sizes.dedup();
    let of_sizes = |work: Work, figure: fn(&Row) -> Option<f64>, what: &str| -> Vec<Panel> {
        let panel = |size: &u64| Panel {
            title: format!("{} kept: {what}", shown(*size)),
            bars: of_work(work, *size, smallest).iter().filter_map(|row| Some((row.contender, figure(row)?))).collect(),
        };
        sizes.iter().map(panel).collect()
    };
    let others = [Work::Steps, Work::Checkpoints, Work::Contention]
        .into_iter()
        .flat_map(|work| panels(&of_work(work, least, smallest), move |by| format!("{work}, {by}")));
    let reads = sizes.iter().flat_map(|size| {
        let size = *size;
        [Work::ReplayHot, Work::ReplayCold, Work::Absent].into_iter().flat_map(move |work| {
            let rows: Vec<&Row> = of_work(work, size, smallest)
                .into_iter()
                .filter(|row| row.concurrency == Callers::threads(1))
                .collect();
            panels(&rows, |_| format!("{work}, {} kept", shown(size)))
        })
    });
    let kept = sizes.iter().filter(|size| **size > least).flat_map(|size| {
        let rows = of_work(Work::ClaimComplete, *size, smallest);
        panels(&rows, |by| format!("{} kept, {by}", shown(*size)))
    });
    let each_byte: fn(&Row) -> Option<f64> = |row| {
        let bytes = u32::try_from(row.disk_bytes? / row.size.max(1)).ok()?;
        Some(f64::from(bytes))
    };
    vec![
        chart("claims", "Claim and complete, operations a second", by_callers(Work::ClaimComplete, least)),
        chart("operations", "Longer operations and contention, operations a second", others.collect()),
        chart("kept", "Claim and complete beside what is kept, operations a second", kept.collect()),
        chart("reads", "Replays and absent keys, one thread, a second", reads.collect()),
        chart(
            "opening",
            "Opening after kill -9, seconds",
            of_sizes(Work::Open, |row| Some(row.p50_us / 1e6), "seconds"),
        ),
        chart("disk", "Bytes on disk an operation", of_sizes(Work::Footprint, each_byte, "bytes")),
    ]
}

/// A panel for each number of callers.
fn panels(rows: &[&Row], title: impl Fn(Callers) -> String) -> Vec<Panel> {
    let mut callers: Vec<Callers> = rows.iter().map(|row| row.concurrency).collect();
    callers.sort_unstable();
    callers.dedup();
    let panel = |by: Callers| {
        let bars = rows.iter().filter(|row| row.concurrency == by).map(|row| (row.contender, row.rate));
        Panel { title: title(by), bars: bars.collect() }
    };
    callers.into_iter().map(panel).collect()
}

impl Panel {
    fn height(&self) -> i32 {
        38 + i32::try_from(self.bars.len()).unwrap_or(0) * (BAR + GAP)
    }
}

impl Chart {
    fn draw(&mut self, path: &Path) -> Result<(), Box<dyn std::error::Error>> {
        for panel in &mut self.panels {
            panel.bars.sort_by(|a, b| b.1.total_cmp(&a.1));
        }
        let lines: Vec<&[Panel]> = self.panels.chunks(COLUMNS).collect();
        let height_of = |line: &&[Panel]| line.iter().map(Panel::height).max().unwrap_or(0);
        let height = HEAD + u32::try_from(lines.iter().map(height_of).sum::<i32>())? + 8;
        let root = SVGBackend::new(path, (WIDTH, height)).into_drawing_area();
        root.fill(&WHITE)?;
        let text = |size: i32, colour: RGBColor, side| {
            (FONT, size).into_font().color(&colour).pos(Pos::new(side, VPos::Center))
        };
        root.draw(&Text::new(self.title.clone(), (16, 24), text(17, INK, HPos::Left)))?;
        let column = i32::try_from(WIDTH)? / i32::try_from(COLUMNS)?;
        let mut top = i32::try_from(HEAD)?;
        for line in lines {
            for (nth, panel) in line.iter().enumerate() {
                let left = 16 + column * i32::try_from(nth)?;
                root.draw(&Text::new(panel.title.clone(), (left, top + 10), text(14, INK, HPos::Left)))?;
                let most = panel.bars.first().map_or(1.0, |bar| bar.1).max(f64::MIN_POSITIVE);
                for (at, (name, figure)) in panel.bars.iter().enumerate() {
                    let middle = top + 30 + i32::try_from(at)? * (BAR + GAP) + BAR / 2;
                    let start = left + LABEL;
                    let length = (f64::from(column - LABEL - FIGURE - 24) * figure / most).max(1.0) as i32;
                    let bar = [(start, middle - BAR / 2), (start + length, middle + BAR / 2)];
                    root.draw(&Rectangle::new(bar, colour(*name).filled()))?;
                    root.draw(&Text::new(name.to_string(), (start - 6, middle), text(12, INK, HPos::Right)))?;
                    let place = (start + length + 6, middle);
                    root.draw(&Text::new(number(*figure), place, text(12, INK, HPos::Left)))?;
                }
            }
            top += height_of(&line);
        }
        root.present()?;
        Ok(())
    }
}

const INK: RGBColor = RGBColor(36, 41, 47);

/// This crate stands out; what is no store is grey.
fn colour(name: Name) -> RGBColor {
    match name {
        Name::Reentry | Name::ReentryDeferred => RGBColor(26, 127, 55),
        name if name.is_limit() => RGBColor(175, 184, 193),
        _ => RGBColor(84, 147, 215),
    }
}
