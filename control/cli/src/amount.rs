//! Sizes, rates, times and ages for people.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/// A number of bytes as people read it: `512 B`, `1.5 GiB`.
pub fn size(bytes: u64) -> String {
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut unit = bytes.ilog2() as usize / 10;
    let mut value = bytes as f64 / (1u64 << (10 * unit)) as f64;
    // 1023.96 KiB would be rounded to 1024.0 KiB.
    if value >= 1023.95 && unit + 1 < UNITS.len() {
        unit += 1;
        value /= 1024.0;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// Reads a size: a number and one of `B KB MB GB TB` or `KiB MiB GiB TiB` or the letter alone, all powers of
/// 1024; without a unit, bytes.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || format!("'{text}' is not a size; write 512MiB, 1.5GiB or a number of bytes");
    let text = text.trim();
    let digits = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let exponent = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(wrong()),
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(1 << exponent).ok_or_else(wrong);
    }
    let bytes = number.parse::<f64>().map_err(|_| wrong())? * (1u64 << exponent) as f64;
    if bytes < u64::MAX as f64 { Ok(bytes as u64) } else { Err(wrong()) }
}

/// Reads a size of at least one byte.
pub fn parse_size_of_data(text: &str) -> Result<u64, String> {
    match parse_size(text)? {
        0 => Err("at least one byte is wanted".into()),
        bytes => Ok(bytes),
    }
}

/// Gigabytes (10⁹ bytes) per second; zero when no time passed.
pub fn gigabytes_per_s(bytes: u64, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { bytes as f64 / 1e9 / time.as_secs_f64() }
}

/// A rate in gigabytes per second.
pub fn rate(bytes: u64, time: Duration) -> String {
    format!("{:.2} GB/s", gigabytes_per_s(bytes, time))
}

/// A span of time as people read it: `840 µs`, `412 ms`, `3.21 s`, `2m05s`.
pub fn span(time: Duration) -> String {
    match time.as_secs_f64() {
        seconds if seconds < 0.001 => format!("{} µs", time.as_micros()),
        seconds if seconds < 1.0 => format!("{} ms", time.as_millis()),
        seconds if seconds < 120.0 => format!("{seconds:.2} s"),
        _ => format!("{}m{:02}s", time.as_secs() / 60, time.as_secs() % 60),
    }
}

/// Reads a span of time: a whole number and one of `ms s m h d`.
pub fn parse_span(text: &str) -> Result<Duration, String> {
    let wrong = || format!("'{text}' is no time; write 500ms, 30s, 10m, 1h or 7d");
    let text = text.trim();
    let (number, unit) =
        text.split_at(text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len()));
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(wrong()),
    };
    let span_ms = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit_ms));
    span_ms.filter(|&span_ms| span_ms > 0).map(Duration::from_millis).ok_or_else(wrong)
}

/// A span of time in the largest unit that it has two of: `840ms`, `30s`, `90m`.
pub fn whole(time: Duration) -> String {
    if time < Duration::from_secs(1) { format!("{}ms", time.as_millis()) } else { age_of(time) }
}

/// How long it is until a point in time, in milliseconds since 1970.
pub fn left(then_ms: u64) -> String {
    whole(Duration::from_millis(then_ms.saturating_sub(now_ms())))
}

/// Milliseconds since 1970.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

/// How long ago a point in time was, in milliseconds since 1970: `8s`, `90m`, `3d`.
pub fn age(then_ms: u64) -> String {
    age_of(Duration::from_millis(now_ms().saturating_sub(then_ms)))
}

fn age_of(time: Duration) -> String {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    match time.as_secs() {
        seconds if seconds < 2 * MINUTE => format!("{seconds}s"),
        seconds if seconds < 2 * HOUR => format!("{}m", seconds / MINUTE),
        seconds if seconds < 2 * DAY => format!("{}h", seconds / HOUR),
        seconds if seconds < 730 * DAY => format!("{}d", seconds / DAY),
        seconds => format!("{}y", seconds / (365 * DAY)),
    }
}

/// A count with its noun: `1 file`, `3 files`.
pub fn count(number: u64, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_short() {
        let told = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (5 << 30, "5.0 GiB"),
            (u64::MAX, "16.0 EiB"),
        ];
        for (bytes, text) in told {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn sizes_are_read() {
        let read = [
            ("0", 0),
            ("17", 17),
            ("64B", 64),
            ("1k", 1 << 10),
            ("512MiB", 512 << 20),
            ("1 GB", 1 << 30),
            ("1.5GiB", 3 << 29),
            ("2TB", 2 << 40),
        ];
        for (text, bytes) in read {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "GiB", "1XB", "-1", "1e9", "1..2MB", "99999999999TB", "1.5.GB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
        assert!(parse_size_of_data("0MB").is_err());
    }

    #[test]
    fn times_are_short() {
        assert_eq!(span(Duration::from_micros(840)), "840 µs");
        assert_eq!(span(Duration::from_millis(412)), "412 ms");
        assert_eq!(span(Duration::from_millis(3214)), "3.21 s");
        assert_eq!(span(Duration::from_secs(125)), "2m05s");
        assert_eq!(age_of(Duration::from_secs(8)), "8s");
        assert_eq!(age_of(Duration::from_secs(90 * 60)), "90m");
        assert_eq!(age_of(Duration::from_secs(3 * 86_400)), "3d");
        assert_eq!(age_of(Duration::from_secs(800 * 86_400)), "2y");
        assert_eq!(age(u64::MAX), "0s");
        assert_eq!(count(1, "file"), "1 file");
        assert_eq!(count(0, "file"), "0 files");
    }

    #[test]
    fn spans_are_read() {
        let read =
            [("500ms", 500), ("30s", 30_000), ("10m", 600_000), (" 1h", 3_600_000), ("7d", 604_800_000)];
        for (text, span_ms) in read {
            assert_eq!(parse_span(text), Ok(Duration::from_millis(span_ms)), "{text}");
        }
        for text in
            ["", "0s", "-1s", "1", "s", "1.5h", "1w", "99999999999999999999s", "18446744073709551615d"]
        {
            assert!(parse_span(text).is_err(), "{text}");
        }
        assert_eq!(whole(Duration::from_millis(840)), "840ms");
        assert_eq!(whole(Duration::from_secs(600)), "10m");
    }

    #[test]
    fn rates_are_decimal() {
        assert_eq!(rate(3_000_000_000, Duration::from_secs(2)), "1.50 GB/s");
        assert_eq!(gigabytes_per_s(1, Duration::ZERO), 0.0);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,12}") {
            let _ = parse_span(&text);
            let _ = parse_size(&text);
        }

        #[test]
        fn a_size_told_is_read_back_roughly(bytes in 0u64..1 << 49) {
            let back = parse_size(&size(bytes)).unwrap();
            prop_assert!(back.abs_diff(bytes) as f64 <= 0.06 * bytes as f64);
        }
    }
}
