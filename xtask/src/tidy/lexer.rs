//! Just enough of Rust's syntax to see code without comments and strings, paths, functions and test modules.

/// A source file whose comments are blanked out and whose strings are filled with quotes; same length and lines.
#[derive(Debug)]
pub(super) struct Source {
    /// Path relative to the workspace.
    pub path: String,
    /// The code.
    pub code: String,
    /// The file is test code as a whole (`tests/…`, `tests.rs`, `benches/…`).
    pub is_test: bool,
    /// Byte ranges of items under `#[cfg(test)]`.
    pub tests: Vec<std::ops::Range<usize>>,
}

/// A function with a body.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Function {
    pub name: String,
    /// Bytes from `fn` to the closing brace.
    pub span: std::ops::Range<usize>,
}

impl Source {
    pub(super) fn new(path: &str, text: &str) -> Source {
        let code = blank(text);
        let mut dirs = path.split('/');
        let is_test = dirs.any(|d| matches!(d, "tests" | "tests.rs" | "benches" | "fuzz"));
        let tests = test_items(&code);
        Source { path: path.to_owned(), code, is_test, tests }
    }

    /// Line of a byte, from 1.
    pub(super) fn line(&self, at: usize) -> usize {
        1 + self.code.as_bytes()[..at].iter().filter(|b| **b == b'\n').count()
    }

    /// Whether this byte is test code.
    pub(super) fn in_test(&self, at: usize) -> bool {
        self.is_test || self.tests.iter().any(|r| r.contains(&at))
    }

    /// Lines with code on them in a byte range.
    pub(super) fn code_lines(&self, span: std::ops::Range<usize>) -> usize {
        self.code[span].lines().filter(|l| !l.trim().is_empty()).count()
    }

    /// All functions that have a body.
    pub(super) fn functions(&self) -> Vec<Function> {
        let b = self.code.as_bytes();
        let mut out = Vec::new();
        for at in words(&self.code, "fn") {
            let name_at = skip_space(b, at + 2);
            let name = ident(&self.code, name_at);
            if name.is_empty() {
                continue; // a function pointer type
            }
            if let Some(open) = body_start(b, name_at)
                && let Some(end) = closing(b, open)
            {
                out.push(Function { name: name.to_owned(), span: at..end });
            }
        }
        out
    }

    /// Every path with at least two segments, `use` trees written out: `(byte, "std::time::Instant")`.
    pub(super) fn paths(&self) -> Vec<(usize, String)> {
        let mut out = Vec::new();
        let mut uses: Vec<std::ops::Range<usize>> = Vec::new();
        for at in words(&self.code, "use") {
            let end = self.code[at..].find(';').map_or(self.code.len(), |i| at + i);
            use_tree(&self.code, at + 3, end, &mut out);
            uses.push(at..end);
        }
        let mut i = 0;
        while let Some(found) = self.code[i..].find("::") {
            let mid = i + found;
            i = mid + 2;
            if uses.iter().any(|r| r.contains(&mid)) {
                continue;
            }
            let start = path_start(self.code.as_bytes(), mid);
            let end = path_end(self.code.as_bytes(), mid);
            out.push((start, self.code[start..end].to_owned()));
            i = end.max(i);
        }
        out
    }
}

/// Whether a byte can be in an identifier.
fn is_ident(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'_' || b >= 0x80
}

/// Where a word stands alone.
pub(super) fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let b = code.as_bytes();
    code.match_indices(word).map(|(at, _)| at).filter(move |&at| {
        let before = at == 0 || !is_ident(b[at - 1]);
        before && b.get(at + word.len()).is_none_or(|c| !is_ident(*c))
    })
}

fn skip_space(b: &[u8], mut at: usize) -> usize {
    while b.get(at).is_some_and(u8::is_ascii_whitespace) {
        at += 1;
    }
    at
}

fn ident(code: &str, at: usize) -> &str {
    let len = code.as_bytes()[at..].iter().take_while(|c| is_ident(**c)).count();
    &code[at..at + len]
}

fn path_start(b: &[u8], mut at: usize) -> usize {
    while at > 0 && (is_ident(b[at - 1]) || b[at - 1] == b':') {
        at -= 1;
    }
    at
}

fn path_end(b: &[u8], mut at: usize) -> usize {
    while at < b.len() && (is_ident(b[at]) || b[at] == b':') {
        at += 1;
    }
    at
}

/// The `{` of a function's body; `None` for a declaration that ends with `;`.
fn body_start(b: &[u8], from: usize) -> Option<usize> {
    let mut depth = 0usize;
    for (at, c) in b.iter().enumerate().skip(from) {
        match c {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth = depth.saturating_sub(1),
            b'{' if depth == 0 => return Some(at),
            b';' if depth == 0 => return None,
            _ => {}
        }
    }
    None
}

/// One past the brace that closes the one at `open`.
fn closing(b: &[u8], open: usize) -> Option<usize> {
    let mut depth = 0usize;
    for (at, c) in b.iter().enumerate().skip(open) {
        match c {
            b'{' => depth += 1,
            b'}' => {
                depth -= 1;
                if depth == 0 {
                    return Some(at + 1);
                }
            }
            _ => {}
        }
    }
    None
}

/// The items behind `#[cfg(test)]`.
fn test_items(code: &str) -> Vec<std::ops::Range<usize>> {
    let b = code.as_bytes();
    let mut out = Vec::new();
    for (at, attr) in code.match_indices("#[cfg(test)]") {
        let mut from = skip_space(b, at + attr.len());
        while b.get(from) == Some(&b'#') {
            // Further attributes between cfg(test) and the item.
            from = code[from..].find(']').map_or(b.len(), |i| skip_space(b, from + i + 1));
        }
        let end = match body_start(b, from) {
            Some(open) => closing(b, open).unwrap_or(b.len()),
            None => code[from..].find(';').map_or(b.len(), |i| from + i + 1),
        };
        out.push(at..end);
    }
    out
}

/// Writes out `a::{b, c::{d}}` between two bytes.
fn use_tree(code: &str, from: usize, to: usize, out: &mut Vec<(usize, String)>) {
    let mut prefixes: Vec<String> = vec![String::new()];
    let mut current = String::new();
    let mut started = from;
    let mut skip_alias = false;
    for (i, c) in code[from..to].char_indices() {
        let at = from + i;
        match c {
            '{' => {
                let prefix = format!("{}{current}", prefixes.last().map_or("", String::as_str));
                prefixes.push(prefix);
                current.clear();
            }
            '}' | ',' => {
                flush(&prefixes, &mut current, started, out);
                skip_alias = false;
                if c == '}' && prefixes.len() > 1 {
                    prefixes.pop();
                }
            }
            _ if c.is_whitespace() => skip_alias |= !current.is_empty() && !current.ends_with(':'),
            _ if !skip_alias => {
                if current.is_empty() {
                    started = at;
                }
                current.push(c);
            }
            _ => {}
        }
    }
    flush(&prefixes, &mut current, started, out);
}

fn flush(prefixes: &[String], current: &mut String, at: usize, out: &mut Vec<(usize, String)>) {
    if !current.is_empty() {
        let prefix = prefixes.last().map_or("", String::as_str);
        out.push((at, format!("{prefix}{current}").trim_end_matches("::self").to_owned()));
        current.clear();
    }
}

/// Comments become blanks, the inside of strings and characters becomes quotes; line breaks stay.
fn blank(text: &str) -> String {
    let b = text.as_bytes();
    let mut out = Vec::with_capacity(b.len());
    let mut i = 0;
    while i < b.len() {
        let rest = &b[i..];
        let (len, fill) = if rest.starts_with(b"//") {
            (rest.iter().position(|c| *c == b'\n').unwrap_or(rest.len()), b' ')
        } else if rest.starts_with(b"/*") {
            (block_comment(rest), b' ')
        } else if let Some(len) = literal(b, i) {
            (len, b'"')
        } else {
            (1, 0)
        };
        for c in &rest[..len] {
            out.push(if *c == b'\n' || fill == 0 { *c } else { fill });
        }
        i += len;
    }
    // Only whole comments and literals were replaced, byte for byte, so the text stays valid.
    String::from_utf8_lossy(&out).into_owned()
}

/// Length of a nested block comment.
fn block_comment(b: &[u8]) -> usize {
    let (mut i, mut depth) = (0, 0);
    while i < b.len() {
        if b[i..].starts_with(b"/*") {
            depth += 1;
            i += 2;
        } else if b[i..].starts_with(b"*/") {
            depth -= 1;
            i += 2;
            if depth == 0 {
                break;
            }
        } else {
            i += 1;
        }
    }
    i
}

/// Length of the string or character literal that starts at `i`, if one does.
fn literal(b: &[u8], i: usize) -> Option<usize> {
    if i > 0 && is_ident(b[i - 1]) {
        return None;
    }
    let rest = &b[i..];
    let prefix = rest.iter().take_while(|c| matches!(c, b'b' | b'c' | b'r')).count().min(2);
    let after = &rest[prefix..];
    if prefix > 0 && rest[prefix - 1] == b'r' {
        let hashes = after.iter().take_while(|c| **c == b'#').count();
        if after.get(hashes) == Some(&b'"') {
            let end: Vec<u8> = std::iter::once(b'"').chain(std::iter::repeat_n(b'#', hashes)).collect();
            let body = &after[hashes + 1..];
            let n = body.windows(end.len()).position(|w| w == end).map_or(body.len(), |p| p + end.len());
            return Some(prefix + hashes + 1 + n);
        }
        return None;
    }
    match after.first() {
        Some(b'"') => Some(prefix + quoted(after, b'"')),
        // A quote opens a character when an escape follows or the next character is followed by a quote;
        // otherwise it is a lifetime.
        Some(b'\'') if prefix <= 1 => {
            let text = std::str::from_utf8(&after[1..]).unwrap_or_default();
            let mut chars = text.chars();
            match (chars.next(), chars.next()) {
                (Some('\\'), _) => Some(prefix + quoted(after, b'\'')),
                (Some(c), Some('\'')) if c != '\'' => Some(prefix + 2 + c.len_utf8()),
                _ => None,
            }
        }
        _ => None,
    }
}

/// Length of a quoted literal with backslash escapes.
fn quoted(b: &[u8], quote: u8) -> usize {
    let mut i = 1;
    while i < b.len() {
        match b[i] {
            b'\\' => i += 2,
            c if c == quote => return i + 1,
            _ => i += 1,
        }
    }
    b.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_strings_are_blanked_and_lines_stay() {
        let s = Source::new(
            "a.rs",
            "let a = \"// no\"; // yes\n/* x /* y */ z */ let b = r#\"fn \"q\" f() {\"#;\n",
        );
        assert!(!s.code.contains("yes") && !s.code.contains("no") && !s.code.contains('z'));
        assert!(s.code.contains("let b ="));
        assert_eq!(s.code_lines(0..s.code.len()), 2);
        assert!(s.functions().is_empty());
    }

    #[test]
    fn lifetimes_are_not_characters() {
        let s = Source::new("a.rs", "fn f<'a>(x: &'a str) -> char { '\\'' } fn g() -> char { '{' }");
        let names: Vec<_> = s.functions().into_iter().map(|f| f.name).collect();
        assert_eq!(names, ["f", "g"]);
    }

    #[test]
    fn paths_of_use_trees_are_written_out() {
        let s = Source::new(
            "a.rs",
            "use std::{fmt, time::{Duration, Instant as I}, net::{self}};\nlet x = std::fs::read(\"a\");\n",
        );
        let paths: Vec<_> = s.paths().into_iter().map(|(at, p)| (s.line(at), p)).collect();
        let want = [
            (1, "std::fmt"),
            (1, "std::time::Duration"),
            (1, "std::time::Instant"),
            (1, "std::net"),
            (2, "std::fs::read"),
        ];
        assert_eq!(paths, want.map(|(l, p)| (l, p.to_owned())));
    }

    #[test]
    fn test_items_are_known() {
        let s = Source::new(
            "a.rs",
            "fn a() {}\n#[cfg(test)]\n#[rustfmt::skip]\nmod tests { fn b() { {} } }\nfn c() {}\n#[cfg(test)]\nmod tests2;\nfn d() {}",
        );
        let inside: Vec<_> =
            s.functions().iter().map(|f| (f.name.clone(), s.in_test(f.span.start))).collect();
        assert_eq!(
            inside,
            [("a", false), ("b", true), ("c", false), ("d", false)].map(|(n, t)| (n.to_owned(), t))
        );
        assert!(Source::new("crates/tcp/src/x/tests.rs", "").is_test);
        assert!(Source::new("crates/tcp/tests/x.rs", "").is_test);
    }

    #[test]
    fn declarations_have_no_body() {
        let s = Source::new("a.rs", "trait T { fn a(&self, x: [u8; 4]); fn b() -> [u8; 2] { [0; 2] } }");
        assert_eq!(s.functions().into_iter().map(|f| f.name).collect::<Vec<_>>(), ["b"]);
    }
}
