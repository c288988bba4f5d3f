//! Words and numbers as a reader wants them: escaped, with separators, with the digits that matter.

/// Stands for a number that there is not.
const NOTHING: &str = "–";

/// Text made safe between tags and inside quotes.
pub(crate) fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            _ => safe.push(c),
        }
    }
    safe
}

/// A scenario's anchor: its name without anything that an address would have to encode.
pub(crate) fn anchor(name: &str) -> String {
    let safe = name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' });
    format!("s-{}", safe.collect::<String>())
}

/// A whole number: `1,234,567`.
pub(crate) fn count(n: u64) -> String {
    separated(&n.to_string())
}

/// A measured number with about three digits that matter, and every digit before the point: `41,234`, `12.3`, `0.0412`.
pub(crate) fn number(value: f64) -> String {
    if !value.is_finite() {
        return if value.is_nan() { NOTHING } else { "∞" }.to_owned();
    }
    let size = value.abs();
    match size {
        _ if size >= 1e15 || (size > 0.0 && size < 1e-6) => format!("{value:.2e}"),
        _ if value.fract() == 0.0 || size >= 100.0 => fixed(value, 0),
        _ if size >= 10.0 => fixed(value, 1),
        _ if size >= 1.0 => fixed(value, 2),
        // As many zeros after the point as it has, and three digits.
        _ => fixed(value, (2.0 - size.log10().floor()) as usize),
    }
}

/// A number beside its bound: more digits where rounding would make them look equal, as 50.04 beside 50.
pub(crate) fn number_beside(value: f64, bound: f64) -> String {
    let usual = number(value);
    let looks_equal = |text: &str| text.replace(',', "").parse() == Ok(bound);
    if value == bound || !value.is_finite() || !looks_equal(&usual) {
        return usual;
    }
    (1..=9).map(|digits| fixed(value, digits)).find(|text| !looks_equal(text)).unwrap_or(usual)
}

/// A bound as it was set: `0.5`, not `0.500`. One that was measured has the digits of any number.
pub(crate) fn bound(value: f64) -> String {
    let text = number(value);
    let short = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    if short.parse() == Ok(value) { short.to_owned() } else { text }
}

/// A label of few letters: `0.05`, `500`, `10k`, `2.5M`.
pub(crate) fn short(value: f64) -> String {
    let (value, letter) = match value.abs() {
        size if size >= 999_999.5 => (value / 1e6, "M"),
        size if size >= 999.999 => (value / 1e3, "k"),
        // Steps are sums of fractions: so little is what is left of zero.
        size if size < 1e-12 => (0.0, ""),
        _ => (value, ""),
    };
    let text = number(value);
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{letter}")
}

/// A share in percent: `±4.2 %` is made of it.
pub(crate) fn percent(share: f64) -> String {
    if !share.is_finite() {
        return NOTHING.to_owned();
    }
    let percent = share * 100.0;
    format!("{} %", fixed(percent, if percent.abs() < 10.0 { 1 } else { 0 }))
}

/// Half the range of the rounds over their median; `None` for a single round, whose noise nobody knows.
pub(crate) fn noise(rounds: &[f64], median: f64) -> Option<f64> {
    if rounds.len() < 2 {
        return None;
    }
    let (low, high) = range(rounds);
    Some(if high == low { 0.0 } else { (high - low) / 2.0 / median.abs() })
}

/// The least and the greatest of the values.
pub(crate) fn range(values: &[f64]) -> (f64, f64) {
    values.iter().fold((f64::NAN, f64::NAN), |(low, high), v| (low.min(*v), high.max(*v)))
}

/// A number with its unit, `4 ms` or `4/s`; a ratio has none.
pub(crate) fn with_unit(number: &str, unit: &str) -> String {
    match unit.strip_prefix('1') {
        Some(per) => format!("{number}{per}"),
        None => format!("{number} {unit}").trim_end().to_owned(),
    }
}

/// How long something took: `8.4 s`, `14 min 3 s`, `1 h 2 min`.
pub(crate) fn duration(seconds: f64) -> String {
    if !(0.0..1e9).contains(&seconds) {
        return NOTHING.to_owned();
    }
    if seconds < 59.95 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds.round() as u64;
    let (hours, minutes, rest) = (whole / 3_600, whole / 60 % 60, whole % 60);
    if hours > 0 { format!("{hours} h {minutes} min") } else { format!("{minutes} min {rest} s") }
}

/// A moment of RFC 3339 in UTC as one writes it: `2026-11-24 02:00:17 UTC`. Any other text stays as it is.
pub(crate) fn moment(rfc3339: &str) -> String {
    match rfc3339.strip_suffix('Z').and_then(|utc| utc.split_once('T')) {
        Some((day, time)) => format!("{day} {time} UTC"),
        None => rfc3339.to_owned(),
    }
}

fn fixed(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$}");
    match text.split_once('.') {
        Some((whole, rest)) => format!("{}.{rest}", separated(whole)),
        None => separated(&text),
    }
}

fn separated(whole: &str) -> String {
    let (sign, digits) = match whole.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", whole),
    };
    let mut text = sign.to_owned();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_leave_its_place() {
        assert_eq!(escape("<b a=\"1\" b='2'>&amp;"), "&lt;b a=&quot;1&quot; b=&#39;2&#39;&gt;&amp;amp;");
        assert_eq!(anchor("idle latency\"/ä"), "s-idle-latency---");
    }

    #[test]
    fn numbers_have_the_digits_that_matter() {
        let shown = [
            (0.0, "0"),
            (50.0, "50"),
            (-1_234.5, "-1,234"),
            (41_234.4, "41,234"),
            (1_234_567.0, "1,234,567"),
            (123.4, "123"),
            (12.34, "12.3"),
            (1.234, "1.23"),
            (0.4123, "0.412"),
            (0.041_23, "0.0412"),
            (0.000_004, "0.00000400"),
            (1e-7, "1.00e-7"),
            (2e15, "2.00e15"),
            (f64::NAN, "–"),
            (f64::INFINITY, "∞"),
        ];
        for (value, text) in shown {
            assert_eq!(number(value), text, "{value:e}");
        }
        assert_eq!(count(1_000), "1,000");
        assert_eq!(count(999), "999");
    }

    #[test]
    fn a_number_never_looks_like_the_bound_that_it_is_not() {
        assert_eq!(number_beside(50.04, 50.0), "50.04");
        assert_eq!(number_beside(50.000_2, 50.0), "50.0002");
        assert_eq!(number_beside(50.0, 50.0), "50");
        assert_eq!(number_beside(49.3, 50.0), "49.3");
        assert_eq!(number_beside(10_000.3, 10_000.0), "10,000.3");
        assert_eq!(number_beside(f64::NAN, 50.0), "–");
    }

    #[test]
    fn a_bound_has_the_digits_that_it_was_set_with() {
        assert_eq!([0.5, 0.01, 5_000.0, 2.0, 0.712_3].map(bound), ["0.5", "0.01", "5,000", "2", "0.712"]);
        assert_eq!(
            [("4", "ms"), ("4", "1/s"), ("4", "")].map(|(n, unit)| with_unit(n, unit)),
            ["4 ms", "4/s", "4"]
        );
    }

    #[test]
    fn labels_are_short() {
        let values = [0.0, 0.1 + 0.2, 20.000_000_1, 500.0, 10_000.0, 2_500_000.0, -1_500.0, 1e9, 1e-7];
        let labels = ["0", "0.3", "20", "500", "10k", "2.5M", "-1.5k", "1,000M", "1.00e-7"];
        assert_eq!(values.map(short), labels);
    }

    #[test]
    fn shares_times_and_moments() {
        assert_eq!(
            (percent(0.042), percent(1.5), percent(f64::NAN)),
            ("4.2 %".into(), "150 %".into(), "–".into())
        );
        assert_eq!(duration(8.44), "8.4 s");
        assert_eq!(duration(59.97), "1 min 0 s");
        assert_eq!(duration(843.4), "14 min 3 s");
        assert_eq!(duration(3_725.0), "1 h 2 min");
        assert_eq!(moment("2026-11-24T02:00:17Z"), "2026-11-24 02:00:17 UTC");
        assert_eq!(moment("yesterday"), "yesterday");
    }

    #[test]
    fn noise_is_half_the_range_over_the_median() {
        assert_eq!(noise(&[90.0, 100.0, 110.0], 100.0), Some(0.1));
        assert_eq!(noise(&[100.0], 100.0), None);
        assert_eq!(noise(&[0.0, 0.0], 0.0), Some(0.0));
        assert_eq!(noise(&[-1.0, 1.0], 0.0), Some(f64::INFINITY));
    }
}
