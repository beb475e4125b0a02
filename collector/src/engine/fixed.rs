//! Fixed point: weights, shares and logarithms without floats, so that every build and machine
//! gives the same bytes.

/// A weight of one: millionths of a vote.
pub const ONE: i64 = 1_000_000;

/// A share or a rate in millionths, 0 to 1,000,000.
pub type Ppm = i64;

/// `part / whole` in millionths, rounded down; 0 when there is no whole.
#[must_use]
pub const fn share(part: i64, whole: i64) -> Ppm {
    if whole <= 0 { 0 } else { times_over(part, ONE, whole) }
}

/// `value * by` for a factor in millionths, rounded down.
#[must_use]
pub const fn scale(value: i64, by: Ppm) -> i64 {
    times_over(value, by, ONE)
}

/// `a * b / c`, in 128 bits only where 64 are too few: a division of those takes five times as long.
const fn times_over(a: i64, b: i64, c: i64) -> i64 {
    match a.checked_mul(b) {
        Some(product) => product / c,
        None => (a as i128 * b as i128 / c as i128) as i64,
    }
}

/// Binary logarithm of a positive number of millionths, as a number of 1/65536ths.
///
/// Digit by digit: the whole part is the position of the highest bit; each further binary digit
/// comes from squaring the mantissa (Knuth, The Art of Computer Programming 1, section 1.2.2,
/// exercise 25). Exact to the last of 16 digits, on every machine.
#[must_use]
pub fn log2_q16(ppm: Ppm) -> i64 {
    assert!(ppm > 0, "the logarithm of a positive number");
    // log2(ppm / 10^6) with 10^6 = 2^6 * 15625; both logs are taken of whole numbers.
    log2_whole(ppm.unsigned_abs()) - log2_whole(ONE.unsigned_abs())
}

fn log2_whole(value: u64) -> i64 {
    let whole = value.ilog2();
    // Mantissa in [1, 2) with 31 binary places.
    let mut mantissa = if whole > 31 { value >> (whole - 31) } else { value << (31 - whole) };
    let mut digits = 0;
    for _ in 0..16 {
        mantissa = (mantissa * mantissa) >> 31;
        digits <<= 1;
        if mantissa >= 1 << 32 {
            mantissa >>= 1;
            digits |= 1;
        }
    }
    i64::from(whole) << 16 | digits
}

/// Kullback-Leibler divergence of a coin with rate `q` from one with rate `p`, in bits, as a number
/// of 1/65536ths (Cover and Thomas, Elements of Information Theory, 2.26). Both are taken
/// between one millionth and all but one.
#[must_use]
pub fn divergence_q16(q: Ppm, p: Ppm) -> i64 {
    let (q, p) = (q.clamp(1, ONE - 1), p.clamp(1, ONE - 1));
    let term = |a: i64, b: i64| scale(log2_q16(a) - log2_q16(b), a);
    term(q, p) + term(ONE - q, ONE - p)
}

/// By how much two samples, each failures of answers, are better explained by a rate of their own each
/// than by one rate, in bits, as a number of 1/65536ths: half of the likelihood-ratio statistic of a
/// two-by-two table (Wilks 1938; Agresti, Categorical Data Analysis, 3.2) over ln 2.
#[must_use]
pub fn apart_q16((f, n): (i64, i64), (other_f, other_n): (i64, i64)) -> i64 {
    let both = share(f + other_f, n + other_n);
    divergence_q16(share(f, n), both) * n + divergence_q16(share(other_f, other_n), both) * other_n
}

/// Moves a smoothed value in millionths towards a new one, over `elapsed` of a time constant
/// `tau` in the same unit: the first-order exponential average, stepped linearly and at most all
/// the way.
#[must_use]
pub fn smooth(value: Ppm, towards: Ppm, elapsed: u64, tau: u64) -> Ppm {
    let part = share(
        i64::try_from(elapsed.min(tau)).unwrap_or(i64::MAX),
        i64::try_from(tau).unwrap_or(i64::MAX),
    );
    value + scale(towards - value, part)
}

/// Median of some values; `None` of none. Of an even number the lower of the two in the middle.
#[must_use]
pub fn median(mut values: Vec<i64>) -> Option<i64> {
    let middle = values.len().checked_sub(1)? / 2;
    values.sort_unstable();
    values.get(middle).copied()
}

/// A share in thousandths, for display.
#[must_use]
pub fn permille(ppm: Ppm) -> u16 {
    u16::try_from(ppm.clamp(0, ONE) / 1000).unwrap_or(1000)
}

/// A share as text, such as `65.6 %`.
#[must_use]
pub fn percent(ppm: Ppm) -> String {
    let tenths = (ppm.max(0) + 500) / 1000;
    format!("{}.{} %", tenths / 10, tenths % 10)
}

/// A weight as text, such as `102.0`.
#[must_use]
pub fn votes(weight: i64) -> String {
    let tenths = (weight.max(0) + ONE / 20) / (ONE / 10);
    format!("{}.{}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_samples_are_apart_by_what_both_are_known() {
        assert_eq!(apart_q16((10, 100), (20, 200)), 0);
        assert_eq!(apart_q16((3, 30), (0, 0)), 0, "of nothing nothing is known");
        let bits = |one, other| apart_q16(one, other) / 65_536;
        // 2 (73 ln(73/62) + 20 ln(20/31) + 71 ln(71/82.2) + 55 ln(55/43.8)) / 2 ln 2 is 8.6.
        assert_eq!(bits((73, 144), (20, 75)), 8);
        assert_eq!(bits((20, 75), (73, 144)), 8);
        assert!(bits((730, 1_440), (200, 750)) > 80);
    }

    #[test]
    fn logarithms_are_close() {
        let check = |ppm: i64, expect: f64| {
            let got = log2_q16(ppm) as f64 / 65536.0;
            assert!((got - expect).abs() < 1e-4, "{ppm}: {got} {expect}");
        };
        check(ONE, 0.0);
        check(2 * ONE, 1.0);
        check(500_000, -1.0);
        for ppm in [1, 7, 20_000, 306_000, 999_999, 5_000_000] {
            check(ppm, (ppm as f64 / 1e6).log2());
        }
    }

    #[test]
    fn divergence_as_in_the_worked_example() {
        // q = 0.306 against 0.02: 0.595 nats.
        let nats = divergence_q16(306_000, 20_000) as f64 / 65536.0 * std::f64::consts::LN_2;
        assert!((nats - 0.595).abs() < 1e-3, "{nats}");
        assert_eq!(divergence_q16(20_000, 20_000), 0);
    }

    #[test]
    fn shares_medians_and_text() {
        assert_eq!(share(1, 3), 333_333);
        assert_eq!(share(1, 0), 0);
        assert_eq!(median(vec![3, 1, 2]), Some(2));
        assert_eq!(median(vec![]), None);
        assert_eq!(percent(656_400), "65.6 %");
        assert_eq!(votes(102 * ONE), "102.0");
        assert_eq!(smooth(0, ONE, 10, 100), 100_000);
        assert_eq!(smooth(0, ONE, 1000, 100), ONE);
    }
}
