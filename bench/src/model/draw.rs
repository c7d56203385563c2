//! The picture of the page: cores over agents, both scales by powers of ten.

use std::fmt::Write as _;

use super::costs::Book;
use super::demand::{Demand, Shape};
use super::tables::count;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 150.0;
const TOP: f64 = 48.0;
const BOTTOM: f64 = 52.0;
/// Powers of ten on the scales.
const AGENTS: (f64, f64) = (1.0, 6.0);
const CORES: (f64, f64) = (-3.0, 3.0);
const COLOURS: [&str; 4] = ["#8a8f98", "#1f6feb", "#2da44e", "#bf8700"];

/// Draws the cores that each program takes with ten workloads an agent.
pub fn picture(book: &Book) -> String {
    let x = |power: f64| LEFT + (power - AGENTS.0) / (AGENTS.1 - AGENTS.0) * (WIDTH - LEFT - RIGHT);
    let y = |power: f64| {
        HEIGHT - BOTTOM - (power - CORES.0) / (CORES.1 - CORES.0) * (HEIGHT - TOP - BOTTOM)
    };
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#ffffff\"/>\n\
         <text x=\"{LEFT}\" y=\"24\" font-size=\"15\" fill=\"#24292f\">Cores of all servers, by \
         agents with ten workloads each</text>\n"
    );
    let mut line = |x1: f64, y1: f64, x2: f64, y2: f64| {
        let _ = writeln!(
            text,
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"#d8dee4\"/>"
        );
    };
    for power in powers(AGENTS) {
        line(x(power), y(CORES.0), x(power), y(CORES.1));
    }
    for power in powers(CORES) {
        line(x(AGENTS.0), y(power), x(AGENTS.1), y(power));
    }
    let mut label = |at: (f64, f64), anchor: &str, colour: &str, words: &str| {
        let _ = writeln!(
            text,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\" fill=\"{colour}\">{words}</text>",
            at.0, at.1
        );
    };
    for power in powers(AGENTS) {
        label((x(power), y(CORES.0) + 18.0), "middle", "#57606a", &count(10f64.powf(power)));
    }
    for power in powers(CORES) {
        let cores = 10f64.powf(power);
        let words = if cores >= 1.0 { count(cores) } else { format!("{cores}") };
        label((LEFT - 8.0, y(power) + 4.0), "end", "#57606a", &words);
    }
    label((f64::midpoint(LEFT, WIDTH - RIGHT), HEIGHT - 14.0), "middle", "#57606a", "agents");

    let mut curves = Vec::new();
    for program in book.programs() {
        curves.push((program.to_owned(), program, 5.0));
    }
    if book.programs().any(|it| it == "steeple") {
        curves.push(("steeple, sync every 60 s".into(), "steeple", 60.0));
    }
    for ((name, program, interval), colour) in curves.into_iter().zip(COLOURS) {
        let costs = book.costs(program);
        let cores = |power: f64| {
            let agents = 10f64.powf(power);
            let shape = Shape::flat(agents, 10.0 * agents, 1.0).pushed().every(interval);
            Demand::of(&shape, &costs).cores.max(1e-9).log10().clamp(CORES.0, CORES.1)
        };
        let points: Vec<String> = (0..=50)
            .map(|step| AGENTS.0 + (AGENTS.1 - AGENTS.0) * f64::from(step) / 50.0)
            .map(|power| format!("{:.1},{:.1}", x(power), y(cores(power))))
            .collect();
        let _ = writeln!(
            text,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2.5\"/>\n\
             <text x=\"{:.1}\" y=\"{:.1}\" fill=\"{colour}\">{name}</text>",
            points.join(" "),
            x(AGENTS.1) + 8.0,
            y(cores(AGENTS.1)) + 4.0,
        );
    }
    text + "</svg>\n"
}

fn powers((least, most): (f64, f64)) -> impl Iterator<Item = f64> {
    (0..=(most - least) as u32).map(move |it| least + f64::from(it))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_picture_is_closed_and_within_its_frame() {
        let text = picture(&Book::default());
        assert!(text.starts_with("<svg") && text.ends_with("</svg>\n"));
        assert!(!text.contains("NaN") && !text.contains("inf"));
    }
}
