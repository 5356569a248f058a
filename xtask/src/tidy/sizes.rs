//! Small things: files, functions, inline test modules.

use super::Finding;
use super::lexer::Source;

/// Lines of code a file may have, and may have with a reason.
const FILE: (usize, usize) = (600, 1000);
/// Lines of code a function may have, and may have with a reason.
const FUNCTION: (usize, usize) = (80, 120);
/// Lines of code of a test module inside a source file.
const INLINE_TESTS: usize = 150;

/// Checks one file.
pub(super) fn check(s: &Source) -> Vec<Finding> {
    let mut out = Vec::new();
    let all = s.code_lines(0..s.code.len());
    let tests: usize = if s.is_test { all } else { s.tests.iter().map(|r| s.code_lines(r.clone())).sum() };
    let own = all - tests.min(all);
    if all > FILE.1 {
        let text = format!("{all} lines of code, the limit is {}; split it by topic", FILE.1);
        out.push(Finding { excusable: false, ..Finding::new(&s.path, 0, "file-length", text) });
    } else if own > FILE.0 {
        let text = format!("{own} lines of code, {} are enough; split it, or say why in tidy.allow", FILE.0);
        out.push(Finding::new(&s.path, 0, "file-length", text));
    }
    if !s.is_test {
        for r in &s.tests {
            let n = s.code_lines(r.clone());
            if n > INLINE_TESTS {
                let text =
                    format!("{n} lines of tests in a source file; over {INLINE_TESTS} they move to tests.rs");
                out.push(Finding::new(&s.path, s.line(r.start), "inline-tests", text));
            }
        }
    }
    for f in s.functions() {
        let n = s.code_lines(f.span.clone());
        let soft = if s.in_test(f.span.start) { FUNCTION.1 } else { FUNCTION.0 };
        if n > soft {
            let (limit, advice) = if n > FUNCTION.1 {
                (FUNCTION.1, "split it into named steps")
            } else {
                (FUNCTION.0, "split it into named steps, or say why in tidy.allow (path#function)")
            };
            let text = format!("`{}` has {n} lines of code, the limit is {limit}; {advice}", f.name);
            out.push(Finding {
                function: Some(f.name),
                excusable: n <= FUNCTION.1,
                ..Finding::new(&s.path, s.line(f.span.start), "function-length", text)
            });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(name: &str, lines: usize) -> String {
        format!("fn {name}() {{\n{}}}\n", "    x();\n".repeat(lines - 2))
    }

    #[test]
    fn lengths_count_code_without_comments_and_blanks() {
        let body = "// a comment\n\n".repeat(500) + &function("f", 80);
        assert_eq!(check(&Source::new("a.rs", &body)), []);
    }

    #[test]
    fn long_functions_are_named_with_their_line() {
        let f =
            check(&Source::new("a.rs", &format!("\n\n{}{}", function("soft", 81), function("hard", 121))));
        assert_eq!(f.len(), 2);
        assert_eq!((f[0].line, f[0].function.as_deref(), f[0].excusable), (3, Some("soft"), true));
        assert_eq!((f[1].line, f[1].function.as_deref(), f[1].excusable), (84, Some("hard"), false));
    }

    #[test]
    fn long_files_and_test_files() {
        let lines = |n: usize| "const A: u8 = 1;\n".repeat(n);
        assert_eq!(check(&Source::new("a.rs", &lines(600))), []);
        assert!(check(&Source::new("a.rs", &lines(601)))[0].excusable);
        assert!(!check(&Source::new("a.rs", &lines(1001)))[0].excusable);
        assert_eq!(check(&Source::new("a/tests.rs", &lines(900))), []);
        assert!(!check(&Source::new("a/tests.rs", &lines(1001)))[0].excusable);
    }

    #[test]
    fn inline_tests_are_short() {
        let module = |n: usize| format!("#[cfg(test)]\nmod tests {{\n{}}}\n", "use a::b;\n".repeat(n));
        assert_eq!(check(&Source::new("a.rs", &module(147))), []);
        assert_eq!(check(&Source::new("a.rs", &module(148)))[0].rule, "inline-tests");
    }
}
