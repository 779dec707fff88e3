//! Plots as SVG: lines over an axis, and bars.
//!
//! ```text
//!   Title
//!   a sentence about where the values come from
//!   unit of the vertical axis
//!      |      .-----o  p99 1.2 ms     each line is named at its end, so nothing
//!      | o---'                        has to be looked up; names that would
//!      |____________                  overlap move apart
//!          axis label
//! ```
//!
//! The background is white, so that a plot can be read on a dark page too, and the colours are
//! those of Okabe and Ito, which people who confuse colours can tell apart. Widths of texts are
//! estimated, since the reader's fonts are not known here.

use std::fmt::Write;

use super::axis::{Axis, Span};

/// Lines over one horizontal and one vertical axis.
pub struct Lines {
    pub title: String,
    pub note: String,
    pub x: Axis,
    pub y: Axis,
    pub series: Vec<Series>,
}

pub struct Series {
    pub name: String,
    /// In ascending order of x.
    pub points: Vec<(f64, f64)>,
    pub colour: Colour,
    pub stroke: Stroke,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stroke {
    Solid,
    /// For what another line is compared with.
    Dashed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    Blue,
    Orange,
    Green,
    Purple,
    Grey,
    /// For a floor among bars.
    PaleGrey,
}

/// One bar for each of several servers, from the top down.
pub struct Bars {
    pub title: String,
    pub note: String,
    pub axis: Axis,
    pub bars: Vec<Bar>,
}

pub struct Bar {
    pub name: String,
    pub value: f64,
    pub colour: Colour,
}

const WIDTH: f64 = 900.0;
const LINES_HEIGHT: f64 = 500.0;
const EDGE: f64 = 28.0;

const TITLE: f64 = 21.0;
const TEXT: f64 = 13.0;
const TEXT_LINE: f64 = 18.0;
/// Between a name and its value.
const NAME_GAP: f64 = 8.0;
const BOLD_OVER_PLAIN: f64 = 1.1;
const INK: &str = "#1a1a1a";
const FAINT_INK: &str = "#595959";

/// Points beyond which marks would hide the line.
const MARKED_POINTS_MAX: usize = 24;

/// Room for a bar.
const BAR_STEP: f64 = 40.0;
const BAR_THICKNESS: f64 = 24.0;

impl Colour {
    /// In the order in which series take them.
    pub const ALL: [Colour; 5] =
        [Colour::Blue, Colour::Orange, Colour::Green, Colour::Purple, Colour::Grey];

    fn hex(self) -> &'static str {
        match self {
            Colour::Blue => "#0072b2",
            Colour::Orange => "#c44e00",
            Colour::Green => "#00795a",
            Colour::Purple => "#a34f86",
            Colour::Grey => "#8a8a8a",
            Colour::PaleGrey => "#c9c9c9",
        }
    }
}

impl Lines {
    pub fn svg(&self) -> String {
        let points = || self.series.iter().flat_map(|series| &series.points);
        let x = Span::around(self.x.scale, points().map(|point| point.0));
        let y = Span::around(self.y.scale, points().map(|point| point.1));

        let mut svg = Svg::new(LINES_HEIGHT);
        let top = svg.heading(&self.title, &self.note);
        svg.text(EDGE, top + TEXT, &self.y.label, "start", FAINT_INK);
        let tick_width =
            y.ticks.iter().map(|&tick| width(&self.y.unit.short(tick))).fold(0.0, f64::max);
        let label_width =
            self.series.iter().map(|series| self.label_width(series)).fold(0.0, f64::max);
        let frame = Frame {
            left: EDGE + tick_width + 10.0,
            right: WIDTH - EDGE - label_width - 22.0,
            top: top + 30.0,
            bottom: LINES_HEIGHT - 62.0,
        };
        self.grid(&mut svg, &frame, &x, &y);
        for series in &self.series {
            draw_series(&mut svg, &frame, series, &x, &y);
        }
        self.names(&mut svg, &frame, &x, &y);
        svg.end()
    }

    fn grid(&self, svg: &mut Svg, frame: &Frame, x: &Span, y: &Span) {
        for &tick in &y.minor {
            svg.line((frame.left, frame.y(y, tick)), (frame.right, frame.y(y, tick)), "#f0f0f0");
        }
        for &tick in &y.ticks {
            let at = frame.y(y, tick);
            svg.line((frame.left, at), (frame.right, at), "#dcdcdc");
            svg.text(frame.left - 10.0, at + 4.5, &self.y.unit.short(tick), "end", FAINT_INK);
        }
        svg.line((frame.left, frame.bottom), (frame.right, frame.bottom), "#595959");
        for &tick in &x.minor {
            let at = frame.x(x, tick);
            svg.line((at, frame.bottom), (at, frame.bottom + 3.0), "#595959");
        }
        let mut free_from = 0.0;
        for &tick in &x.ticks {
            let (at, text) = (frame.x(x, tick), self.x.unit.short(tick));
            svg.line((at, frame.bottom), (at, frame.bottom + 6.0), "#595959");
            if at - width(&text) / 2.0 >= free_from {
                svg.text(at, frame.bottom + 22.0, &text, "middle", FAINT_INK);
                free_from = at + width(&text) / 2.0 + 8.0;
            }
        }
        let middle = f64::midpoint(frame.left, frame.right);
        svg.text(middle, frame.bottom + 46.0, &self.x.label, "middle", FAINT_INK);
    }

    /// Each line's name and last value to the right of the frame, at the height of its end if there
    /// is room.
    fn names(&self, svg: &mut Svg, frame: &Frame, x: &Span, y: &Span) {
        let ends: Vec<(&Series, (f64, f64))> = self
            .series
            .iter()
            .filter_map(|series| {
                let &(last_x, last_y) = series.points.last()?;
                Some((series, (frame.x(x, last_x), frame.y(y, last_y))))
            })
            .collect();
        let wanted: Vec<f64> = ends.iter().map(|(_, (_, y))| *y).collect();
        let placed = apart(&wanted, TEXT_LINE, frame.top, frame.bottom);
        for ((series, end), at) in ends.into_iter().zip(placed) {
            let label_x = frame.right + 18.0;
            let is_away = frame.right - end.0 > 8.0 || (at - end.1).abs() > 3.0;
            if is_away {
                let knee = (end.0.max(frame.right - 4.0), end.1);
                svg.leader(&[(end.0 + 6.0, end.1), knee, (label_x - 4.0, at)], series.colour);
            }
            let (name, value) = self.label(series);
            svg.name(label_x, at + 4.5, &name, &value, series.colour);
        }
    }

    /// A line's name and last value.
    fn label(&self, series: &Series) -> (String, String) {
        let last = series.points.last().map_or(0.0, |point| point.1);
        (series.name.clone(), self.y.unit.text(last))
    }

    fn label_width(&self, series: &Series) -> f64 {
        let (name, value) = self.label(series);
        BOLD_OVER_PLAIN * width(&name) + NAME_GAP + width(&value)
    }
}

fn draw_series(svg: &mut Svg, frame: &Frame, series: &Series, x: &Span, y: &Span) {
    let places: Vec<(f64, f64)> =
        series.points.iter().map(|point| (frame.x(x, point.0), frame.y(y, point.1))).collect();
    svg.polyline(&places, series.colour, series.stroke);
    if places.len() <= MARKED_POINTS_MAX {
        for &place in &places {
            svg.mark(place, series.colour);
        }
    }
}

impl Bars {
    pub fn svg(&self) -> String {
        // Half of the least, so that the shortest bar of a logarithmic axis has a length.
        let values = self.bars.iter().flat_map(|bar| [bar.value, bar.value / 2.0]);
        let span = Span::around(self.axis.scale, values);
        let mut svg = Svg::new(0.0);
        let top = svg.heading(&self.title, &self.note) + 14.0;
        let name_width = self.bars.iter().map(|bar| width(&bar.name)).fold(0.0, f64::max);
        let text = |bar: &Bar| self.axis.unit.text(bar.value);
        let value_width = self.bars.iter().map(|bar| width(&text(bar))).fold(0.0, f64::max);
        let frame = Frame {
            left: EDGE + name_width + 12.0,
            right: WIDTH - EDGE - value_width - 12.0,
            top,
            bottom: top + BAR_STEP * self.bars.len() as f64,
        };
        for &tick in span.minor.iter().chain(&span.ticks) {
            let at = frame.x(&span, tick);
            svg.line((at, frame.top), (at, frame.bottom), "#e4e4e4");
        }
        for &tick in &span.ticks {
            let at = frame.x(&span, tick);
            svg.text(at, frame.bottom + 20.0, &self.axis.unit.short(tick), "middle", FAINT_INK);
        }
        for (index, bar) in self.bars.iter().enumerate() {
            let middle = frame.top + BAR_STEP * (index as f64 + 0.5);
            let end = frame.x(&span, bar.value);
            svg.text(frame.left - 12.0, middle + 4.5, &bar.name, "end", INK);
            svg.bar(frame.left, middle - BAR_THICKNESS / 2.0, end - frame.left, bar.colour);
            svg.text_over_lines(end + 8.0, middle + 4.5, &text(bar));
        }
        svg.line((frame.left, frame.top), (frame.left, frame.bottom), "#595959");
        let middle = f64::midpoint(frame.left, frame.right);
        svg.text(middle, frame.bottom + 44.0, &self.axis.label, "middle", FAINT_INK);
        svg.height = frame.bottom + 62.0;
        svg.end()
    }
}

/// Where on the picture the values are.
struct Frame {
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
}

impl Frame {
    fn x(&self, span: &Span, value: f64) -> f64 {
        self.left + span.place(value) * (self.right - self.left)
    }

    fn y(&self, span: &Span, value: f64) -> f64 {
        self.bottom - span.place(value) * (self.bottom - self.top)
    }
}

/// Moves places apart until `gap` lies between any two, in their order, within limits if they fit.
fn apart(wanted: &[f64], gap: f64, low: f64, high: f64) -> Vec<f64> {
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_by(|&a, &b| wanted[a].total_cmp(&wanted[b]));
    let mut placed = wanted.to_vec();
    let mut free_from = low;
    for &index in &order {
        placed[index] = placed[index].max(free_from);
        free_from = placed[index] + gap;
    }
    let mut free_to = high;
    for &index in order.iter().rev() {
        placed[index] = placed[index].min(free_to);
        free_to = placed[index] - gap;
    }
    placed
}

/// What a text takes in a usual sans-serif font, rather too much than too little.
fn width(text: &str) -> f64 {
    let each = |c: char| match c {
        'i' | 'j' | 'l' | 't' | 'f' | '.' | ',' | ';' | ':' | ' ' | '\u{a0}' => 0.36,
        'm' | 'w' | 'M' | 'W' | '%' => 0.95,
        _ => 0.62,
    };
    TEXT * text.chars().map(each).sum::<f64>()
}

/// The text of a picture while it is drawn.
struct Svg {
    height: f64,
    body: String,
}

impl Svg {
    fn new(height: f64) -> Svg {
        Svg { height, body: String::new() }
    }

    fn end(self) -> String {
        let Svg { height, body } = self;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" \
             width=\"{WIDTH}\" height=\"{height:.0}\" font-size=\"{TEXT}\" \
             font-family=\"Helvetica, Arial, 'DejaVu Sans', sans-serif\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n{body}</svg>\n"
        )
    }

    fn push(&mut self, element: std::fmt::Arguments<'_>) {
        writeln!(self.body, "{element}").expect("a string takes everything");
    }

    /// Title and note; returns where they end.
    fn heading(&mut self, title: &str, note: &str) -> f64 {
        let mut at = EDGE + TITLE * 0.75;
        self.push(format_args!(
            "<text x=\"{EDGE}\" y=\"{at:.1}\" font-size=\"{TITLE}\" font-weight=\"bold\" \
             fill=\"{INK}\">{}</text>",
            escaped(title)
        ));
        at += 8.0;
        for line in wrapped(note, WIDTH - 2.0 * EDGE) {
            at += TEXT_LINE;
            self.text(EDGE, at, &line, "start", FAINT_INK);
        }
        at + 12.0
    }

    fn text(&mut self, x: f64, y: f64, text: &str, anchor: &str, ink: &str) {
        self.push(format_args!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"{ink}\">{}</text>",
            escaped(text)
        ));
    }

    fn text_over_lines(&mut self, x: f64, y: f64, text: &str) {
        self.push(format_args!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" fill=\"{INK}\" stroke=\"#ffffff\" stroke-width=\"5\" \
             paint-order=\"stroke\">{}</text>",
            escaped(text)
        ));
    }

    /// A name in bold, and a value.
    fn name(&mut self, x: f64, y: f64, name: &str, value: &str, colour: Colour) {
        self.push(format_args!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" fill=\"{}\"><tspan font-weight=\"bold\">{}</tspan>\
             <tspan dx=\"{NAME_GAP}\">{}</tspan></text>",
            colour.hex(),
            escaped(name),
            escaped(value)
        ));
    }

    fn line(&mut self, (x1, y1): (f64, f64), (x2, y2): (f64, f64), ink: &str) {
        self.push(format_args!(
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{ink}\"/>"
        ));
    }

    fn polyline(&mut self, points: &[(f64, f64)], colour: Colour, stroke: Stroke) {
        let dashes = match stroke {
            Stroke::Solid => "",
            Stroke::Dashed => " stroke-dasharray=\"7 5\"",
        };
        self.push(format_args!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2.5\" \
             stroke-linejoin=\"round\"{dashes}/>",
            listed(points),
            colour.hex()
        ));
    }

    /// From a line's end to its name.
    fn leader(&mut self, points: &[(f64, f64)], colour: Colour) {
        self.push(format_args!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-opacity=\"0.45\"/>",
            listed(points),
            colour.hex()
        ));
    }

    fn mark(&mut self, (x, y): (f64, f64), colour: Colour) {
        self.push(format_args!(
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{}\" stroke=\"#ffffff\" \
             stroke-width=\"1.5\"/>",
            colour.hex()
        ));
    }

    fn bar(&mut self, x: f64, y: f64, width: f64, colour: Colour) {
        self.push(format_args!(
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{BAR_THICKNESS}\" \
             fill=\"{}\"/>",
            width.max(1.0),
            colour.hex()
        ));
    }
}

fn listed(points: &[(f64, f64)]) -> String {
    let each: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    each.join(" ")
}

fn wrapped(text: &str, room: f64) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    // What belongs together is joined by spaces that do not break.
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if width(line) + width(word) + width(" ") <= room => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_move_apart_in_their_order_and_stay_within() {
        assert_eq!(apart(&[50.0, 10.0], 18.0, 0.0, 100.0), [50.0, 10.0]);
        assert_eq!(apart(&[12.0, 10.0], 18.0, 0.0, 100.0), [28.0, 10.0]);
        assert_eq!(apart(&[100.0, 99.0, 98.0], 18.0, 0.0, 100.0), [100.0, 82.0, 64.0]);
    }

    #[test]
    fn notes_are_wrapped_and_names_cannot_be_markup() {
        let lines = wrapped(&["commit\u{a0}0123"; 30].join(" "), 300.0);
        assert!(lines.len() > 2 && lines.iter().all(|line| width(line) <= 300.0), "{lines:?}");
        assert!(lines.iter().all(|line| line.ends_with("0123")), "{lines:?}");
        assert_eq!(escaped("a<b>&c"), "a&lt;b&gt;&amp;c");
    }
}
