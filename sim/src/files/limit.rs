//! Sizes of collections: how they are read (`1MB`, `1.5 GiB`, `1024`), and how limits are told (`4.00GB`).

/// Bytes, or `None` for what is no size.
pub(super) fn parse(text: &str) -> Option<u64> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number: f64 = number.parse().ok()?;
    let factor: f64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "tb" => 1e12,
        "kib" => 1024.0,
        "mib" => 1_048_576.0,
        "gib" => 1_073_741_824.0,
        "tib" => 1_099_511_627_776.0,
        _ => return None,
    };
    Some((number * factor) as u64)
}

/// In the largest decimal unit that fits, with two digits after the point.
pub(super) fn write(bytes: u64) -> String {
    let units = [(1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")];
    let size = bytes as f64;
    match units.into_iter().find(|(factor, _)| size >= *factor) {
        Some((factor, unit)) => format!("{:.2}{unit}", size / factor),
        None => format!("{size:.2}B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units_and_fractions() {
        for (text, expected) in [
            ("1111", Some(1111)),
            ("1MB", Some(1_000_000)),
            ("1MiB", Some(1_048_576)),
            ("1.5gb", Some(1_500_000_000)),
            ("20 kb", Some(20_000)),
            ("abc", None),
            ("-1MB", None),
            ("", None),
        ] {
            assert_eq!(parse(text), expected, "{text}");
        }
        assert_eq!(write(4_000_000_000), "4.00GB");
        assert_eq!(write(25_000_000), "25.00MB");
    }
}
