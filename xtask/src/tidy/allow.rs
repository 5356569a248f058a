//! `tidy.allow`: exceptions, one per line, `path: rule: reason` or `path#function: rule: reason`.

use super::Finding;

/// One line of the file.
#[derive(Debug)]
struct Exception {
    line: usize,
    path: String,
    function: Option<String>,
    rule: String,
    used: bool,
}

/// Takes out what is excused; adds an error for every line that is malformed or excuses nothing.
pub(super) fn apply(name: &str, text: &str, findings: Vec<Finding>) -> Vec<Finding> {
    let (mut exceptions, mut left) = parse(name, text);
    for f in findings {
        let excuse = exceptions.iter_mut().find(|e| {
            e.path == f.path && e.rule == f.rule && (e.function.is_none() || e.function == f.function)
        });
        match excuse {
            Some(e) if f.excusable => e.used = true,
            _ => left.push(f),
        }
    }
    for e in exceptions.iter().filter(|e| !e.used) {
        let text = format!("nothing in {} needs this exception from `{}`; remove the line", e.path, e.rule);
        left.push(Finding::new(name, e.line, "allow", text));
    }
    left
}

/// Reads the lines; blank ones and those that start with `#` are skipped.
fn parse(name: &str, text: &str) -> (Vec<Exception>, Vec<Finding>) {
    let mut good = Vec::new();
    let mut bad = Vec::new();
    for (i, raw) in text.lines().enumerate() {
        let line = raw.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let mut parts = line.splitn(3, ": ");
        match (parts.next(), parts.next(), parts.next()) {
            (Some(place), Some(rule), Some(reason)) if !reason.trim().is_empty() => {
                let (path, function) = match place.split_once('#') {
                    Some((p, f)) => (p, Some(f.to_owned())),
                    None => (place, None),
                };
                let (path, rule) = (path.to_owned(), rule.to_owned());
                good.push(Exception { line: i + 1, path, function, rule, used: false });
            }
            _ => {
                let text = "an exception is `path: rule: reason`, and the reason may not be empty".to_owned();
                bad.push(Finding::new(name, i + 1, "allow", text));
            }
        }
    }
    (good, bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(path: &str, rule: &'static str, function: Option<&str>, excusable: bool) -> Finding {
        Finding {
            function: function.map(str::to_owned),
            excusable,
            ..Finding::new(path, 3, rule, "too long".to_owned())
        }
    }

    #[test]
    fn an_exception_excuses_its_rule_in_its_file_only() {
        let allow = "# comment\n\na.rs: file-length: one table\n";
        let all =
            vec![finding("a.rs", "file-length", None, true), finding("b.rs", "file-length", None, true)];
        let left = apply("tidy.allow", allow, all);
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].path, "b.rs");
    }

    #[test]
    fn an_exception_can_name_one_function() {
        let allow = "a.rs#big: function-length: a flat match\n";
        let all = vec![
            finding("a.rs", "function-length", Some("big"), true),
            finding("a.rs", "function-length", Some("other"), true),
        ];
        let left = apply("tidy.allow", allow, all);
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].function.as_deref(), Some("other"));
    }

    #[test]
    fn hard_limits_unused_lines_and_missing_reasons_stay() {
        let allow = "a.rs: file-length: big\nb.rs: clock: gone\nc.rs: clock:\n";
        let left = apply("tidy.allow", allow, vec![finding("a.rs", "file-length", None, false)]);
        let lines: Vec<_> = left.iter().map(|f| (f.path.as_str(), f.line)).collect();
        assert_eq!(lines, [("tidy.allow", 3), ("a.rs", 3), ("tidy.allow", 1), ("tidy.allow", 2)]);
    }
}
