//! Numbers for people, and sizes from the command line.

use std::time::Duration;

/// `"97.8 MiB"`.
pub(crate) fn bytes(n: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    scaled(n as f64, 1024.0, &units)
}

/// `"25.6 M"`.
pub(crate) fn count(n: u64) -> String {
    scaled(n as f64, 1000.0, &["", "k", "M", "G", "T"])
}

fn scaled(mut n: f64, base: f64, units: &[&str]) -> String {
    let mut unit = 0;
    while n >= base && unit + 1 < units.len() {
        n /= base;
        unit += 1;
    }
    let digits = if unit == 0 || n >= 100.0 {
        0
    } else if n >= 10.0 {
        1
    } else {
        2
    };
    format!("{n:.digits$} {}", units[unit]).trim_end().to_owned()
}

/// Milliseconds.
pub(crate) fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// A height and width, `"HxW"`, or one number for both.
pub(crate) fn parse_size(text: &str) -> Result<[usize; 2], String> {
    let (height, width) = text.split_once('x').unwrap_or((text, text));
    let side = |s: &str| s.parse().ok().filter(|n| (1..=1 << 14).contains(n));
    match (side(height), side(width)) {
        (Some(height), Some(width)) => Ok([height, width]),
        _ => Err("expected a height and width such as 224x224".to_owned()),
    }
}

/// A number of threads or images: at least 1.
pub(crate) fn parse_positive(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| "expected a number of at least 1".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        let cases = [(0, "0 B"), (1023, "1023 B"), (1536, "1.50 KiB"), (102_760_448, "98.0 MiB")];
        for (n, text) in cases {
            assert_eq!(bytes(n), text);
        }
        assert_eq!(count(25_557_032), "25.6 M");
        assert_eq!(count(999), "999");
    }

    #[test]
    fn sizes_are_checked() {
        assert_eq!(parse_size("224x192"), Ok([224, 192]));
        assert_eq!(parse_size("224"), Ok([224, 224]));
        for bad in ["", "x", "0x1", "224x", "224x224x3", "-1x5", "99999x1"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }
}
