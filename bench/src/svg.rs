//! A picture of each scenario, as SVG text: for every figure a bar for each folder, with the range
//! of its rounds, and the limit as a line across.

use std::fmt::Write as _;

/// One picture.
pub struct Picture {
    pub title: String,
    pub subtitle: String,
    /// The folders, in the order of the bars.
    pub legend: Vec<String>,
    pub groups: Vec<Group>,
}

/// One figure: bars on a scale of their own.
pub struct Group {
    pub label: String,
    pub unit: String,
    pub limit: Option<f64>,
    /// One for each folder; `None` where there is no sample.
    pub bars: Vec<Option<Bar>>,
}

/// One folder's figure.
pub struct Bar {
    pub median: f64,
    pub least: f64,
    pub greatest: f64,
    /// The median as text.
    pub text: String,
}

const WIDTH: f64 = 860.0;
/// Where the bars begin, and how long the longest whisker is.
const LEFT: f64 = 24.0;
const SPAN: f64 = 700.0;
const BAR: f64 = 14.0;
const GAP: f64 = 4.0;
const HEAD: f64 = 92.0;
const LABEL: f64 = 22.0;
const BETWEEN: f64 = 16.0;
/// Colours that are told apart in print and by most eyes, darker for later folders.
const COLOURS: [&str; 4] = ["#9aa5b1", "#2f6f9f", "#d08a2e", "#5b8c5a"];

impl Picture {
    /// The whole file.
    pub fn svg(&self) -> String {
        let bars = self.legend.len() as f64;
        let group = LABEL + bars * (BAR + GAP) + BETWEEN;
        let height = HEAD + self.groups.len() as f64 * group + 20.0;
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
             viewBox=\"0 0 {WIDTH} {height}\" font-family=\"system-ui, sans-serif\" \
             font-size=\"12\" fill=\"#23303d\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
        );
        text(&mut out, LEFT, 28.0, "font-size=\"17\" font-weight=\"600\"", &self.title);
        text(&mut out, LEFT, 48.0, "fill=\"#5a6875\"", &self.subtitle);
        self.legend(&mut out);
        let mut top = HEAD;
        for it in &self.groups {
            it.draw(&mut out, top);
            top += group;
        }
        out + "</svg>\n"
    }

    fn legend(&self, out: &mut String) {
        let mut left = LEFT;
        for (index, label) in self.legend.iter().enumerate() {
            rect(out, left, 60.0, 12.0, colour(index));
            text(out, left + 18.0, 70.5, "", label);
            left += 40.0 + 7.0 * label.chars().count() as f64;
        }
        if self.groups.iter().any(|group| group.limit.is_some()) {
            line(out, (left + 4.0, 60.0), (left + 4.0, 72.0), LIMIT_STYLE);
            text(out, left + 12.0, 70.5, "", "limit of this machine");
        }
    }
}

const LIMIT_STYLE: &str = "stroke=\"#b3261e\" stroke-width=\"2\"";
const WHISKER_STYLE: &str = "stroke=\"#23303d\" stroke-width=\"1\"";

impl Group {
    fn draw(&self, out: &mut String, top: f64) {
        text(out, LEFT, top + 13.0, "font-weight=\"500\"", &self.label);
        let most = self.bars.iter().flatten().map(|bar| bar.greatest.max(bar.median));
        let most = most.chain(self.limit).fold(0.0, f64::max);
        let place = |value: f64| LEFT + if most > 0.0 { value / most * SPAN } else { 0.0 };
        let mut y = top + LABEL;
        for (index, bar) in self.bars.iter().enumerate() {
            let Some(bar) = bar else {
                text(out, LEFT, y + 11.0, "fill=\"#5a6875\"", "–");
                y += BAR + GAP;
                continue;
            };
            rect(out, LEFT, y, (place(bar.median) - LEFT).max(1.0), colour(index));
            let middle = y + BAR / 2.0;
            if bar.greatest > bar.least {
                let (from, to) = (place(bar.least), place(bar.greatest));
                line(out, (from, middle), (to, middle), WHISKER_STYLE);
                for x in [from, to] {
                    line(out, (x, middle - 4.0), (x, middle + 4.0), WHISKER_STYLE);
                }
            }
            let x = place(bar.greatest.max(bar.median)) + 6.0;
            text(out, x, y + 11.0, "", &format!("{} {}", bar.text, self.unit));
            y += BAR + GAP;
        }
        if let Some(limit) = self.limit {
            let x = place(limit);
            line(out, (x, top + LABEL - 3.0), (x, y - GAP + 3.0), LIMIT_STYLE);
        }
    }
}

fn colour(index: usize) -> &'static str {
    COLOURS[index % COLOURS.len()]
}

fn rect(out: &mut String, x: f64, y: f64, width: f64, colour: &str) {
    let _ = writeln!(
        out,
        "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{BAR}\" rx=\"2\" \
         fill=\"{colour}\"/>"
    );
}

fn line(out: &mut String, from: (f64, f64), to: (f64, f64), style: &str) {
    let ((x1, y1), (x2, y2)) = (from, to);
    let _ = writeln!(
        out,
        "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" {style}/>"
    );
}

fn text(out: &mut String, x: f64, y: f64, style: &str, text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let _ = writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" {style}>{text}</text>");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_is_well_formed_and_says_what_is_in_it() {
        let bar = |median| Some(Bar { median, least: 1.0, greatest: 4.0, text: "3".into() });
        let groups = vec![Group {
            label: "a < b & c".into(),
            unit: "µs".into(),
            limit: Some(0.5),
            bars: vec![bar(3.0), None],
        }];
        let legend = vec!["spire".into(), "steeple".into()];
        let (title, subtitle) = ("mint".to_owned(), String::new());
        let svg = Picture { title, subtitle, legend, groups }.svg();
        assert!(svg.contains("a &lt; b &amp; c") && svg.contains(">3 µs</text>"), "{svg}");
        let tags = |open: &str| svg.matches(open).count();
        assert_eq!(tags("<text"), tags("</text>"));
        // The range of the one bar with its two ends, the limit, and the limit in the legend.
        assert_eq!((tags("<rect"), tags("<line")), (1 + 2 + 1, 3 + 1 + 1));
        assert!(svg.ends_with("</svg>\n"));
    }
}
