//! Sizes in bytes, as people write them.

/// A text that is not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a size; write a number and a unit, such as 16GB or 512MiB (units are powers of 1024)")]
pub struct SizeError(pub String);

/// Reads a size such as `16GB`: a whole number and one of B, KB, MB, GB, TB, KiB, MiB, GiB, TiB, or none of them.
/// All units are powers of 1024.
pub(crate) fn parse(text: &str) -> Result<u64, SizeError> {
    let wrong = || SizeError(text.chars().take(40).collect());
    let trimmed = text.trim();
    let digits = trimmed.find(|character: char| !character.is_ascii_digit()).unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(digits);
    let power = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 1,
        "m" | "mb" | "mib" => 2,
        "g" | "gb" | "gib" => 3,
        "t" | "tb" | "tib" => 4,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(1024_u64.pow(power)).ok_or_else(wrong)
}

/// A size for the log, in the largest unit that leaves a number of at least one.
pub(crate) fn show(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let power = (bytes.max(1).ilog2() / 10).min(4);
    let value = bytes as f64 / 1024_f64.powi(power as i32);
    if value.fract() == 0.0 {
        format!("{value:.0} {}", units[power as usize])
    } else {
        format!("{value:.1} {}", units[power as usize])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_powers_of_1024() {
        for (text, bytes) in
            [("7", 7), ("1B", 1), ("2KB", 2048), ("3 MiB", 3 << 20), ("16GB", 16 << 30), ("1tb", 1 << 40)]
        {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in ["", "GB", "-1GB", "1.5GB", "1PB", "16 G B", "99999999999TB"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_shown_in_their_largest_unit() {
        assert_eq!((show(0), show(1 << 30), show(3 << 29)), ("0 B".into(), "1 GiB".into(), "1.5 GiB".into()));
    }
}
