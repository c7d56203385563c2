//! The terminal: steps, facts and verdicts, with colour where there is someone to see it.

use std::io::{self, IsTerminal as _, Stdout, Write};

/// Where labels of facts end.
const LABEL: usize = 14;

/// Writes the demonstration's lines.
#[derive(Debug)]
pub(crate) struct Screen<W> {
    out: W,
    colour: bool,
    /// Whether a line can be written over.
    live: bool,
    /// Whether such a line is there now.
    waiting: bool,
}

#[derive(Clone, Copy)]
enum Style {
    Bold,
    Dim,
    Good,
    Bad,
}

impl Screen<Stdout> {
    /// Standard output; in colour if that is a terminal and nobody objects.
    pub(crate) fn stdout() -> Self {
        let out = io::stdout();
        let live = out.is_terminal() && std::env::var_os("TERM").is_none_or(|it| it != "dumb");
        // https://no-color.org: present and not empty.
        let objection = std::env::var_os("NO_COLOR").is_some_and(|it| !it.is_empty());
        Self { out, colour: live && !objection, live, waiting: false }
    }
}

impl<W: Write> Screen<W> {
    /// What this is, above everything.
    pub(crate) fn title(&mut self, text: &str) -> io::Result<()> {
        let text = self.styled(Style::Bold, text);
        self.line(&text)
    }

    /// A numbered step, with a sentence or two about it.
    pub(crate) fn step(&mut self, number: usize, title: &str, about: &[&str]) -> io::Result<()> {
        let title = self.styled(Style::Bold, &format!("{number}  {title}"));
        self.line("")?;
        self.line(&title)?;
        about.iter().try_for_each(|line| self.line(&format!("   {line}")))
    }

    /// A command as it was run.
    pub(crate) fn command(&mut self, command: &str) -> io::Result<()> {
        let text = self.styled(Style::Dim, &format!("$ {command}"));
        self.line(&format!("   {text}"))
    }

    /// Something that worked, or was refused as it should be.
    pub(crate) fn good(&mut self, text: &str) -> io::Result<()> {
        let mark = self.styled(Style::Good, "✓");
        self.line(&format!("   {mark} {text}"))
    }

    /// Something that failed.
    pub(crate) fn bad(&mut self, text: &str) -> io::Result<()> {
        let mark = self.styled(Style::Bad, "✗");
        self.line(&format!("   {mark} {text}"))
    }

    /// One value with its name; a continuation of the one before when that is empty.
    pub(crate) fn fact(&mut self, label: &str, value: &str) -> io::Result<()> {
        let label = self.styled(Style::Dim, &format!("{label:LABEL$}"));
        self.line(&format!("     {label}{value}"))
    }

    /// A line of text.
    pub(crate) fn note(&mut self, text: &str) -> io::Result<()> {
        self.line(&format!("   {text}"))
    }

    /// A line of somebody else's text.
    pub(crate) fn quote(&mut self, text: &str) -> io::Result<()> {
        let text = self.styled(Style::Dim, text);
        self.line(&format!("     {text}"))
    }

    /// What is being waited for. The next line takes its place; where lines stay, it is not shown.
    pub(crate) fn waiting(&mut self, text: &str) -> io::Result<()> {
        if !self.live {
            return Ok(());
        }
        let text = self.styled(Style::Dim, text);
        self.waiting = true;
        write!(self.out, "\r\x1b[2K   {text}")?;
        self.out.flush()
    }

    /// An empty line.
    pub(crate) fn gap(&mut self) -> io::Result<()> {
        self.line("")
    }

    fn line(&mut self, text: &str) -> io::Result<()> {
        if std::mem::take(&mut self.waiting) {
            write!(self.out, "\r\x1b[2K")?;
        }
        writeln!(self.out, "{text}")?;
        self.out.flush()
    }

    fn styled(&self, style: Style, text: &str) -> String {
        if !self.colour || text.trim().is_empty() {
            return text.to_owned();
        }
        let code = match style {
            Style::Bold => 1,
            Style::Dim => 2,
            Style::Good => 32,
            Style::Bad => 31,
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

#[cfg(test)]
impl Screen<Vec<u8>> {
    /// Keeps what is written.
    pub(crate) fn kept(colour: bool) -> Self {
        Self { out: Vec::new(), colour, live: colour, waiting: false }
    }

    /// What was written.
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.out).expect("only text is written")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn everything(screen: &mut Screen<Vec<u8>>) -> io::Result<()> {
        screen.title("Title")?;
        screen.step(2, "A step", &["Why it is there."])?;
        screen.command("spire-server run")?;
        screen.waiting("12 s")?;
        screen.good("it worked")?;
        screen.fact("serial", "17")?;
        screen.fact("", "18")?;
        screen.bad("it did not")
    }

    #[test]
    fn without_colour_there_is_no_escape_and_nothing_is_written_over() {
        let mut screen = Screen::kept(false);
        everything(&mut screen).unwrap();
        assert_eq!(
            screen.text(),
            "Title\n\n2  A step\n   Why it is there.\n   $ spire-server run\n   ✓ it worked\n     \
             serial        17\n                   18\n   ✗ it did not\n"
        );
    }

    #[test]
    fn with_colour_every_style_is_ended_on_its_line() {
        let mut screen = Screen::kept(true);
        everything(&mut screen).unwrap();
        for line in screen.text().lines() {
            let line = line.replace("\r\x1b[2K", "");
            let (all, ends) = (line.matches('\x1b').count(), line.matches("\x1b[0m").count());
            assert_eq!(all, 2 * ends, "{line:?}");
        }
        assert!(screen.text().contains("\x1b[32m✓\x1b[0m it worked"));
    }

    #[test]
    fn the_next_line_takes_the_place_of_what_was_waited_for() {
        let mut screen = Screen::kept(true);
        screen.waiting("1 s").unwrap();
        screen.waiting("2 s").unwrap();
        screen.note("done").unwrap();
        screen.note("and on").unwrap();
        assert!(screen.text().ends_with("2 s\x1b[0m\r\x1b[2K   done\n   and on\n"));
    }
}
