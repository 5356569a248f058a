//! TOML with positions: every error names file, line and column, and says what to do.

use crate::units;
use std::fmt;
use std::ops::Range;
use std::time::Duration;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// An error in a lab file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LabError {
    pub file: String,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    pub text: String,
    /// The line itself.
    pub source: String,
    /// Characters to mark.
    pub width: usize,
}

impl fmt::Display for LabError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.line.to_string();
        let gap = " ".repeat(number.len());
        // Tabs stay tabs, so that the mark stands below what it means.
        let lead: String =
            self.source.chars().take(self.column - 1).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        let mark = "^".repeat(self.width.max(1));
        writeln!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.text)?;
        writeln!(f, "{gap} |\n{number} | {}", self.source)?;
        write!(f, "{gap} | {lead}{mark}")
    }
}

/// The text of a file, to turn byte ranges into lines and columns.
#[derive(Debug, Clone, Copy)]
pub(super) struct Text<'a> {
    pub file: &'a str,
    pub text: &'a str,
}

impl Text<'_> {
    pub(super) fn error(&self, span: Range<usize>, text: impl Into<String>) -> LabError {
        let start = span.start.min(self.text.len());
        let before = self.text.get(..start).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |i| i + 1);
        let source = self.text[line_start..].lines().next().unwrap_or_default().to_owned();
        let column = before[line_start..].chars().count() + 1;
        let marked = self.text.get(start..span.end.min(self.text.len())).unwrap_or_default();
        let width = marked.lines().next().map_or(1, |l| l.chars().count());
        LabError {
            file: self.file.to_owned(),
            line: before.matches('\n').count() + 1,
            column,
            text: text.into(),
            source,
            width,
        }
    }
}

/// A value that remembers where it stood.
#[derive(Debug, Clone)]
pub(super) struct At<T> {
    pub value: T,
    pub span: Range<usize>,
}

impl<T> At<T> {
    pub(super) fn new(value: T, span: Range<usize>) -> At<T> {
        At { value, span }
    }
}

/// A table whose keys are taken one after the other; what is left at the end is unknown.
pub(super) struct Table<'a, 'd> {
    text: Text<'a>,
    table: &'a DeTable<'d>,
    /// Where the table starts, for a missing key.
    span: Range<usize>,
    /// `a [[link]]`, for messages.
    what: &'static str,
    known: Vec<&'static str>,
}

type Value<'a, 'd> = &'a Spanned<DeValue<'d>>;

impl<'a, 'd> Table<'a, 'd> {
    pub(super) fn new(
        text: Text<'a>,
        table: &'a DeTable<'d>,
        span: Range<usize>,
        what: &'static str,
    ) -> Self {
        Table { text, table, span, what, known: Vec::new() }
    }

    pub(super) fn get(&mut self, key: &'static str) -> Option<Value<'a, 'd>> {
        self.known.push(key);
        self.table.get(key)
    }

    /// An error at the table itself.
    pub(super) fn error(&self, text: impl Into<String>) -> LabError {
        self.text.error(self.span.clone(), text)
    }

    fn wrong(&self, key: &str, v: Value<'_, '_>, want: &str) -> LabError {
        self.text.error(v.span(), format!("`{key}` is {want}, not {}", kind(v.get_ref())))
    }

    pub(super) fn string(&mut self, key: &'static str) -> Result<Option<At<String>>, LabError> {
        match self.get(key) {
            None => Ok(None),
            Some(v) => match v.get_ref() {
                DeValue::String(s) => Ok(Some(At::new(s.to_string(), v.span()))),
                _ => Err(self.wrong(key, v, "a text in quotes")),
            },
        }
    }

    pub(super) fn required(&mut self, key: &'static str, example: &str) -> Result<At<String>, LabError> {
        self.string(key)?
            .ok_or_else(|| self.error(format!("{} needs `{key}`, for example {key} = {example}", self.what)))
    }

    pub(super) fn boolean(&mut self, key: &'static str, default: bool) -> Result<bool, LabError> {
        match self.get(key) {
            None => Ok(default),
            Some(v) => match v.get_ref() {
                DeValue::Boolean(b) => Ok(*b),
                _ => Err(self.wrong(key, v, "true or false")),
            },
        }
    }

    pub(super) fn number(
        &mut self,
        key: &'static str,
        range: std::ops::RangeInclusive<u64>,
    ) -> Result<Option<u64>, LabError> {
        let Some(v) = self.get(key) else { return Ok(None) };
        let text = match v.get_ref() {
            DeValue::Integer(i) => u64::from_str_radix(i.as_str(), i.radix()).ok(),
            _ => return Err(self.wrong(key, v, "a whole number")),
        };
        match text.filter(|n| range.contains(n)) {
            Some(n) => Ok(Some(n)),
            None => {
                let text = format!("`{key}` is a whole number from {} to {}", range.start(), range.end());
                Err(self.text.error(v.span(), text))
            }
        }
    }

    /// A text or number with a unit, read by one of [`crate::units`].
    pub(super) fn unit<T>(
        &mut self,
        key: &'static str,
        read: fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, LabError> {
        let Some(v) = self.get(key) else { return Ok(None) };
        let text = match v.get_ref() {
            DeValue::String(s) => s.to_string(),
            DeValue::Integer(i) => i.as_str().to_owned(),
            DeValue::Float(f) => f.as_str().to_owned(),
            _ => return Err(self.wrong(key, v, "a text in quotes")),
        };
        read(&text).map(Some).map_err(|e| self.text.error(v.span(), e))
    }

    pub(super) fn duration(&mut self, key: &'static str) -> Result<Option<Duration>, LabError> {
        self.unit(key, units::duration)
    }

    /// One text, or a list of texts.
    pub(super) fn strings(&mut self, key: &'static str) -> Result<Vec<At<String>>, LabError> {
        match self.get(key) {
            None => Ok(Vec::new()),
            Some(v) => strings(self.text, key, v),
        }
    }

    /// The tables of `[[key]]`.
    pub(super) fn tables(
        &mut self,
        key: &'static str,
        what: &'static str,
    ) -> Result<Vec<Table<'a, 'd>>, LabError> {
        let Some(v) = self.get(key) else { return Ok(Vec::new()) };
        let DeValue::Array(list) = v.get_ref() else {
            return Err(self
                .text
                .error(v.span(), format!("write [[{key}]] with two brackets: there can be several")));
        };
        let each = |v: Value<'a, 'd>| match v.get_ref() {
            DeValue::Table(t) => Ok(Table::new(self.text, t, v.span(), what)),
            _ => Err(self.text.error(v.span(), format!("`{key}` is a list of tables: write [[{key}]]"))),
        };
        list.iter().map(each).collect()
    }

    /// The entries of a table with free keys, in the order of the file.
    pub(super) fn entries(
        &mut self,
        key: &'static str,
        example: &str,
    ) -> Result<Vec<(At<String>, Value<'a, 'd>)>, LabError> {
        let Some(v) = self.get(key) else { return Ok(Vec::new()) };
        let DeValue::Table(t) = v.get_ref() else {
            return Err(self.wrong(key, v, &format!("a table such as {example}")));
        };
        let mut all: Vec<_> =
            t.iter().map(|(k, v)| (At::new(k.get_ref().to_string(), k.span()), v)).collect();
        all.sort_by_key(|(k, _)| k.span.start);
        Ok(all)
    }

    /// Every key must have been asked for.
    pub(super) fn finish(&self) -> Result<(), LabError> {
        let Some(key) = self.table.keys().find(|k| !self.known.contains(&k.get_ref().as_ref())) else {
            return Ok(());
        };
        let name = key.get_ref();
        let hint = match units::closest(name, self.known.iter().copied()) {
            Some(k) => format!("did you mean `{k}`?"),
            None => format!("it has {}", self.known.join(", ")),
        };
        Err(self.text.error(key.span(), format!("`{name}` is not a setting of {}; {hint}", self.what)))
    }
}

/// One text, or a list of texts.
pub(super) fn strings(text: Text<'_>, key: &str, v: Value<'_, '_>) -> Result<Vec<At<String>>, LabError> {
    let one = |v: Value<'_, '_>| match v.get_ref() {
        DeValue::String(s) => Ok(At::new(s.to_string(), v.span())),
        other => {
            Err(text.error(v.span(), format!("`{key}` is a text or a list of texts, not {}", kind(other))))
        }
    };
    match v.get_ref() {
        DeValue::Array(list) => list.iter().map(one).collect(),
        _ => Ok(vec![one(v)?]),
    }
}

/// A value as the text a sysctl or the environment takes.
pub(super) fn scalar(text: Text<'_>, key: &str, v: Value<'_, '_>) -> Result<String, LabError> {
    match v.get_ref() {
        DeValue::String(s) => Ok(s.to_string()),
        DeValue::Integer(i) => Ok(i.as_str().to_owned()),
        DeValue::Boolean(b) => Ok(u8::from(*b).to_string()),
        other => Err(text.error(v.span(), format!("`{key}` is a number or a text, not {}", kind(other)))),
    }
}

fn kind(v: &DeValue<'_>) -> &'static str {
    match v {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
