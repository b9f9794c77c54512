//! The report as a picture: how many pairs are direct with each means, and after what time.

use std::time::Duration;

use super::{
    Means,
    report::{Figures, Report, Trial},
};
use crate::svg::{self, Frame, line, logarithmic, text};

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 420.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 350.0;
/// Of the times; the bars have the same height.
const FRAME: Frame = Frame { x: CURVES, y: [TOP, BOTTOM] };
const BARS: [f64; 2] = [60.0, 400.0];
const CURVES: [f64; 2] = [470.0, 870.0];
/// The time axis, logarithmic.
const SECONDS: [f64; 2] = [0.1, 100.0];
const COLOURS: [&str; Means::ALL.len()] = ["#999999", "#aa3377", "#4477aa", "#66ccee", "#ccbb44", "#228833"];

/// The picture as an SVG document.
pub(crate) fn svg(report: &Report, trials: &[Trial]) -> String {
    let mut svg = svg::open(WIDTH, HEIGHT);
    text(&mut svg, (BARS[0] + BARS[1]) / 2.0, 25.0, "pairs that talk directly, with 95 % intervals");
    text(&mut svg, (CURVES[0] + CURVES[1]) / 2.0, 25.0, "time until they do");
    for percent in (0..=100).step_by(20) {
        let y = FRAME.height(f64::from(percent) / 100.0);
        for [left, right] in [BARS, CURVES] {
            line(&mut svg, [left, y], [right, y], "#dddddd");
        }
        text(&mut svg, BARS[0] - 22.0, y + 4.0, &format!("{percent} %"));
    }
    for (place, seconds) in [0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0].into_iter().enumerate() {
        let x = FRAME.along(logarithmic(seconds, SECONDS));
        line(&mut svg, [x, TOP], [x, BOTTOM], if place % 2 == 0 { "#dddddd" } else { "#eeeeee" });
        text(&mut svg, x, BOTTOM + 18.0, &format!("{seconds} s"));
    }
    for (place, figures) in report.means.iter().enumerate() {
        bar(&mut svg, place, figures);
        curve(&mut svg, COLOURS[place], trials.iter().map(|trial| trial.results[place].took));
    }
    svg.push_str("</svg>\n");
    svg
}

fn bar(svg: &mut String, place: usize, figures: &Figures) {
    let step = (BARS[1] - BARS[0]) / Means::ALL.len() as f64;
    let (x, colour) = (BARS[0] + step * (place as f64 + 0.5), COLOURS[place]);
    let direct = figures.direct;
    let (y, left, width) = (FRAME.height(direct.share), x - step * 0.3, step * 0.6);
    svg::bar(svg, [left, y], [width, BOTTOM - y], colour);
    line(svg, [x, FRAME.height(direct.low)], [x, FRAME.height(direct.high)], "black");
    text(svg, x, FRAME.height(direct.high) - 6.0, &format!("{:.1} %", direct.share * 100.0));
    // Labels go in two rows, or they would run into each other.
    text(svg, x, BOTTOM + 18.0 + 18.0 * (place % 2) as f64, figures.means.name());
}

/// The share of all pairs that is direct by each moment.
fn curve(svg: &mut String, colour: &str, took: impl Iterator<Item = Option<Duration>>) {
    let took: Vec<_> = took.collect();
    let all = took.len().max(1) as f64;
    let mut direct: Vec<f64> = took.into_iter().flatten().map(|took| took.as_secs_f64()).collect();
    direct.sort_unstable_by(f64::total_cmp);
    let mut points = vec![[CURVES[0], BOTTOM]];
    let mut last = -1.0;
    for (nth, seconds) in direct.iter().enumerate() {
        let (x, y) = (FRAME.along(logarithmic(*seconds, SECONDS)), FRAME.height((nth + 1) as f64 / all));
        // One point for each pixel is enough.
        if x - last >= 1.0 || nth + 1 == direct.len() {
            points.push([x, y]);
            last = x;
        }
    }
    points.push([CURVES[1], FRAME.height(direct.len() as f64 / all)]);
    svg::curve(svg, &points, colour);
}
