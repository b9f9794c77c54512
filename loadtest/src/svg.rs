//! Elements of pictures: lines, words, bars and curves within a frame with two axes.

use std::fmt::{self, Write as _};

/// The place of a plot in its picture, and how values become places.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    /// Left and right.
    pub(crate) x: [f64; 2],
    /// Top and bottom.
    pub(crate) y: [f64; 2],
}

impl Frame {
    /// The x of a share of the width.
    pub(crate) fn along(&self, share: f64) -> f64 {
        self.x[0] + share * (self.x[1] - self.x[0])
    }

    /// The y of a share of the height.
    pub(crate) fn height(&self, share: f64) -> f64 {
        self.y[1] - share * (self.y[1] - self.y[0])
    }
}

/// The share of a logarithmic axis at which `value` is, the ends for what is beyond; all are positive.
pub(crate) fn logarithmic(value: f64, range: [f64; 2]) -> f64 {
    ((value / range[0]).ln() / (range[1] / range[0]).ln()).clamp(0.0, 1.0)
}

/// The beginning of a document of this size.
pub(crate) fn open(width: f64, height: f64) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    )
}

pub(crate) fn line(svg: &mut String, from: [f64; 2], to: [f64; 2], colour: &str) {
    let ([x1, y1], [x2, y2]) = (from, to);
    put(svg, format_args!("<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{colour}\"/>"));
}

/// Words around `x`.
pub(crate) fn text(svg: &mut String, x: f64, y: f64, words: &str) {
    words_at(svg, x, y, "middle", words);
}

/// Words that end at `x`.
pub(crate) fn text_before(svg: &mut String, x: f64, y: f64, words: &str) {
    words_at(svg, x, y, "end", words);
}

/// Words that begin at `x`.
pub(crate) fn text_after(svg: &mut String, x: f64, y: f64, words: &str) {
    words_at(svg, x, y, "start", words);
}

pub(crate) fn bar(svg: &mut String, from: [f64; 2], size: [f64; 2], colour: &str) {
    let ([x, y], [width, height]) = (from, size);
    put(
        svg,
        format_args!("<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{colour}\"/>"),
    );
}

pub(crate) fn dot(svg: &mut String, at: [f64; 2], colour: &str) {
    let [x, y] = at;
    put(svg, format_args!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.5\" fill=\"{colour}\"/>"));
}

pub(crate) fn curve(svg: &mut String, points: &[[f64; 2]], colour: &str) {
    let mut places = String::new();
    for [x, y] in points {
        // Writing to a string does not fail.
        let _ = write!(places, "{}{x:.1},{y:.1}", if places.is_empty() { "" } else { " " });
    }
    put(svg, format_args!("<polyline points=\"{places}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>"));
}

/// Text as markup holds it.
pub(crate) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn words_at(svg: &mut String, x: f64, y: f64, anchor: &str, words: &str) {
    let words = escaped(words);
    put(svg, format_args!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>"));
}

fn put(svg: &mut String, element: fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    let _ = writeln!(svg, "{element}");
}
