//! Bars with their range, as SVG.

use std::fmt::Write;

use super::measure::{Figure, median};
use super::page::{number, range};

const LINE: usize = 30;
const LABELS: usize = 260;
const BARS: usize = 360;
const WIDTH: usize = LABELS + BARS + 100;

/// A bar for each figure: the median, and a line from the lowest to the highest.
pub fn bars(title: &str, figures: &[&Figure]) -> String {
    let most = figures.iter().map(|figure| range(&figure.values).1);
    let most = most.fold(f64::MIN_POSITIVE, f64::max);
    let place = |value: f64| (value.max(0.0) / most * BARS as f64).round() as usize;
    let height = (figures.len() + 1) * LINE + 10;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"10\" y=\"20\" font-weight=\"bold\">{}</text>\n",
        escaped(title)
    );
    for (row, figure) in figures.iter().enumerate() {
        let top = (row + 1) * LINE + 4;
        let (low, high) = range(&figure.values);
        let value = median(&figure.values);
        let ours = !["raw", "bare", "tonic alone", "claude -p"]
            .iter()
            .any(|other| figure.way.starts_with(other));
        let colour = if ours { "#c15f3c" } else { "#8a8a8a" };
        let (middle, text) = (top + 14, LABELS + place(high) + 8);
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{middle}\" text-anchor=\"end\">{}</text>\n\
             <rect x=\"{LABELS}\" y=\"{top}\" width=\"{}\" height=\"20\" fill=\"{colour}\"/>\n\
             <line x1=\"{}\" x2=\"{}\" y1=\"{}\" y2=\"{}\" stroke=\"#000000\"/>\n\
             <text x=\"{text}\" y=\"{middle}\">{}</text>",
            LABELS - 8,
            escaped(&figure.way),
            place(value).max(1),
            LABELS + place(low),
            LABELS + place(high),
            top + 10,
            top + 10,
            number(value),
        );
    }
    svg.push_str("</svg>\n");
    svg
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
