//! JSON numbers of any form and length, as counts and as money.

/// A JSON number as a count: a negative one is zero, a fraction is rounded up, overflow saturates.
// On the digits, since a float has neither the range nor the precision: 1e400 is a JSON number, and
// 2^53 + 1 is no float. A fraction counts as more, so that a budget errs on the safe side.
pub(crate) fn count(text: &str) -> u64 {
    if let Ok(count) = text.parse() {
        return count;
    }
    if text.starts_with('-') { 0 } else { round_up(text).unwrap_or(u64::MAX) }
}

/// A JSON number of dollars in micro-dollars: a negative one is zero, overflow saturates.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a float cast saturates at both ends")]
pub(crate) fn micro_dollars(text: &str) -> u64 {
    // Vendors write floats: the nearest micro-dollar is meant.
    text.parse().map_or(0, |dollars: f64| (dollars * 1e6).round() as u64)
}

/// A number that is not negative, in any form that JSON allows, rounded up.
fn round_up(text: &str) -> Option<u64> {
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all = [whole, fraction].concat();
    let digits = all.trim_start_matches('0');
    if digits.is_empty() {
        return Some(0);
    }
    // An exponent that does not fit into an i64 is as good as any large one.
    let huge = if exponent.starts_with('-') { i64::MIN / 2 } else { i64::MAX / 2 };
    let exponent = exponent.parse().unwrap_or(huge).clamp(i64::MIN / 2, i64::MAX / 2);
    // How many of the digits stand before the point.
    let leading = all.len() - digits.len();
    let point = i64::try_from(whole.len()).ok()? - i64::try_from(leading).ok()? + exponent;
    match usize::try_from(point) {
        // 0.0…1 is a fraction: one. More than 20 digits are more than a u64 holds.
        Err(_) | Ok(0) => Some(1),
        Ok(21..) => Some(u64::MAX),
        Ok(point) => {
            let (whole, fraction) = digits.split_at(point.min(digits.len()));
            let zeros = point - whole.len();
            let count = format!("{whole}{:0<zeros$}", "").parse().unwrap_or(u64::MAX);
            let up = fraction.bytes().any(|digit| digit != b'0');
            Some(count.saturating_add(u64::from(up)))
        }
    }
}
