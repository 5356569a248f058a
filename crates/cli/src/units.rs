//! Numbers with units, as people write them: `20ms`, `100mbit`, `1%`, `64MiB`.

use std::time::Duration;

/// Splits `20ms` into 20 and `ms`.
fn split(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let value: f64 = number.parse().ok()?;
    value.is_finite().then_some((value, unit.trim()))
}

/// A duration: `1500us`, `20ms`, `1.5s`, `2min`, `1h`; at most a day.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a duration; write for example 20ms, 1.5s or 2min");
    let (value, unit) = split(text).ok_or_else(wrong)?;
    let nanoseconds = match unit {
        "ns" => 1.0,
        "us" | "µs" => 1e3,
        "ms" => 1e6,
        "s" => 1e9,
        "m" | "min" => 6e10,
        "h" => 3.6e12,
        "" => return Err(format!("`{text}` has no unit; write for example {text}ms or {text}s")),
        _ => return Err(wrong()),
    };
    let total = value * nanoseconds;
    if total > 8.64e13 {
        return Err(format!("`{text}` is longer than a day"));
    }
    Ok(Duration::from_nanos(total as u64))
}

/// Bits per second: `100mbit`, `1gbit`, `64kbit`, `9600bit`; also `10MB/s`-like forms of tc (`mbps` = bytes).
pub(crate) fn rate(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is not a rate; write for example 64kbit, 100mbit or 1gbit");
    let (value, unit) = split(text).ok_or_else(wrong)?;
    let lower = unit.to_ascii_lowercase();
    let factor = match lower.trim_end_matches("/s") {
        "bit" => 1.0,
        "kbit" => 1e3,
        "mbit" => 1e6,
        "gbit" => 1e9,
        // tc(8): bps and its multiples are bytes per second.
        "bps" => 8.0,
        "kbps" => 8e3,
        "mbps" => 8e6,
        "gbps" => 8e9,
        "" => return Err(format!("`{text}` has no unit; write for example {text}mbit")),
        _ => return Err(wrong()),
    };
    let bits = value * factor;
    if (1.0..=4e12).contains(&bits) {
        Ok(bits as u64)
    } else {
        Err(format!("`{text}` is not between 1bit and 4000gbit"))
    }
}

/// A probability in parts per million: `1%`, `0.01%`, or `0.01` as a fraction.
pub(crate) fn probability(text: &str) -> Result<u32, String> {
    let wrong = || format!("`{text}` is not a probability; write for example 1% or 0.05%");
    let (value, unit) = split(text).ok_or_else(wrong)?;
    let fraction = match unit {
        "%" => value / 100.0,
        "" if value <= 1.0 => value,
        "" => return Err(format!("`{text}` is more than 1; write {text}% for a percentage")),
        _ => return Err(wrong()),
    };
    if fraction > 1.0 {
        return Err(format!("`{text}` is more than 100%"));
    }
    Ok((fraction * 1e6).round() as u32)
}

/// Bytes: `1000`, `64KiB`, `10MB`, `1GiB`.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is not a size; write for example 1000, 64KiB or 10MB");
    let (value, unit) = split(text).ok_or_else(wrong)?;
    let factor = match unit {
        "" | "B" => 1.0,
        "kB" | "KB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        "k" | "K" | "KiB" => 1024.0,
        "M" | "MiB" => 1_048_576.0,
        "G" | "GiB" => 1_073_741_824.0,
        _ => return Err(wrong()),
    };
    let bytes = value * factor;
    if bytes <= 1.2e15 { Ok(bytes as u64) } else { Err(format!("`{text}` is more than a petabyte")) }
}

/// Bytes for people: `64.0 MiB`.
pub(crate) fn show_size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// Bits per second for people: `1.03 Gbit/s`.
pub(crate) fn show_rate(bits_per_second: f64) -> String {
    match bits_per_second {
        r if r >= 1e9 => format!("{:.2} Gbit/s", r / 1e9),
        r if r >= 1e6 => format!("{:.1} Mbit/s", r / 1e6),
        r => format!("{:.1} kbit/s", r / 1e3),
    }
}

/// The word of `known` that is closest to `word`, if one is close: for "did you mean".
pub(crate) fn closest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (word.chars().count() / 3).max(1);
    known.into_iter().map(|k| (distance(word, k), k)).filter(|(d, _)| *d <= limit).min().map(|(_, k)| k)
}

/// Edits (insert, delete, replace, swap of neighbours) from one word to the other.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0usize; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let replace = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let mut best = replace.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    best = best.min(rows[i - 2][j - 2] + 1);
                }
                best
            };
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(duration("20ms"), Ok(Duration::from_millis(20)));
        assert_eq!(duration("1.5 s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        assert_eq!(duration("20").unwrap_err(), "`20` has no unit; write for example 20ms or 20s");
        for wrong in ["", "ms", "-1s", "1.2.3s", "1 parsec", "30h", "1e9s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn rates() {
        assert_eq!(rate("100mbit"), Ok(100_000_000));
        assert_eq!(rate("1Gbit/s"), Ok(1_000_000_000));
        assert_eq!(rate("10mbps"), Ok(80_000_000));
        for wrong in ["0mbit", "100", "mbit", "1zbit", "9999gbit"] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn probabilities() {
        assert_eq!(probability("1%"), Ok(10_000));
        assert_eq!(probability("0.01"), Ok(10_000));
        assert_eq!(probability("100%"), Ok(1_000_000));
        assert_eq!(probability("5").unwrap_err(), "`5` is more than 1; write 5% for a percentage");
        for wrong in ["101%", "x", "1 percent", "-1%"] {
            assert!(probability(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(size("64MiB"), Ok(64 << 20));
        assert_eq!(size("10kB"), Ok(10_000));
        assert!(size("10 bananas").is_err());
        assert_eq!(show_size(64 << 20), "64.0 MiB");
        assert_eq!(show_size(999), "999 B");
        assert_eq!(show_rate(1.034e9), "1.03 Gbit/s");
    }

    #[test]
    fn close_words() {
        assert_eq!(closest("dealy", ["delay", "rate"]), Some("delay"));
        assert_eq!(closest("lnk", ["link", "loss"]), Some("link"));
        assert_eq!(closest("banana", ["delay", "rate"]), None);
    }
}
