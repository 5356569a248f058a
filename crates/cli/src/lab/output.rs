//! The programs' output, each line with the program's name in front.

use std::io::{IsTerminal, Write};

/// A line longer than this is cut into several.
const LINE_LIMIT: usize = 64 * 1024;

/// Where the lines of one program go.
#[derive(Debug)]
pub(crate) struct Prefixed {
    prefix: String,
    partial: Vec<u8>,
    to_stderr: bool,
    /// Looked for in the output; cleared once seen.
    awaited: Option<String>,
    /// The awaited text was printed.
    pub seen: bool,
}

impl Prefixed {
    /// For the program `name`; `width` is that of the longest name.
    pub(crate) fn new(
        name: &str,
        width: usize,
        number: usize,
        to_stderr: bool,
        awaited: Option<String>,
    ) -> Prefixed {
        let terminal =
            if to_stderr { std::io::stderr().is_terminal() } else { std::io::stdout().is_terminal() };
        // Green to cyan: red looks like an error.
        let colour = 32 + number % 5;
        let prefix = if terminal {
            format!("\x1b[{colour}m{name:width$} |\x1b[0m ")
        } else {
            format!("{name:width$} | ")
        };
        Prefixed { prefix, partial: Vec::new(), to_stderr, awaited, seen: false }
    }

    /// Takes output as it comes and prints the lines that are complete.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        let text = self.take_lines(bytes);
        self.print(&text);
    }

    /// The program has ended: a last line without its end.
    pub(crate) fn finish(&mut self) {
        if !self.partial.is_empty() {
            let text = self.take_lines(b"\n");
            self.print(&text);
        }
    }

    /// The complete lines, each with its prefix.
    fn take_lines(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.partial.extend_from_slice(bytes);
        let mut out = Vec::new();
        while let Some(end) = self.partial.iter().position(|b| *b == b'\n').or_else(|| self.too_long()) {
            let line: Vec<u8> = self.partial.drain(..=end).collect();
            let text = String::from_utf8_lossy(&line);
            // A progress bar returns to the start of its line: what it showed last counts.
            let shown = text.trim_end_matches(['\n', '\r']).rsplit('\r').next().unwrap_or_default();
            self.seen |= self.awaited.as_ref().is_some_and(|a| text.contains(a.as_str()));
            out.extend_from_slice(self.prefix.as_bytes());
            out.extend_from_slice(shown.as_bytes());
            out.push(b'\n');
        }
        // A prompt may come without the end of its line.
        if let Some(a) = &self.awaited {
            self.seen |= String::from_utf8_lossy(&self.partial).contains(a.as_str());
        }
        out
    }

    fn too_long(&self) -> Option<usize> {
        (self.partial.len() > LINE_LIMIT).then_some(LINE_LIMIT)
    }

    fn print(&self, text: &[u8]) {
        // A reader that went away is no reason to stop the lab.
        let _ = if self.to_stderr {
            std::io::stderr().write_all(text)
        } else {
            std::io::stdout().write_all(text)
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_prefixed_and_pieces_joined() {
        let mut p = Prefixed::new("web", 5, 0, true, Some("ready".to_owned()));
        p.prefix = "web   | ".to_owned();
        assert_eq!(p.take_lines(b"one\ntw"), b"web   | one\n");
        assert!(!p.seen);
        assert_eq!(p.take_lines(b"o\r\n10%\r20%\n"), b"web   | two\nweb   | 20%\n");
        assert_eq!(p.take_lines(b"now rea"), b"");
        assert_eq!(p.take_lines(b"dy"), b"");
        assert!(p.seen);
        assert_eq!(p.take_lines(&vec![b'x'; LINE_LIMIT + 1]).len(), LINE_LIMIT + 1 + 9);
    }
}
