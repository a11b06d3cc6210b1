//! Weights as people and JSON meet them: percent, with at most two decimals.

use grayxdp_common::weight::Weight;

/// Why a number is no weight.
#[derive(Clone, Copy, PartialEq, Debug, thiserror::Error)]
pub enum PercentError {
    /// Below zero, above 100, or no number at all.
    #[error("{0} is no weight: a weight is a percent from 0 to 100")]
    OutOfRange(f64),
    /// Finer than a weight can be.
    #[error("{0} has too many decimals: a weight is a percent with at most two, such as 12.5 or 0.01")]
    TooFine(f64),
    /// Not a number.
    #[error("this is no number: a weight is a percent from 0 to 100, such as 12.5")]
    NotANumber,
}

/// The weight of so many percent.
pub fn weight_from_percent(percent: f64) -> Result<Weight, PercentError> {
    if !(0.0..=100.0).contains(&percent) {
        return Err(PercentError::OutOfRange(percent));
    }
    let hundredths = (percent * 100.0).round();
    // The nearest double to a number of two decimals is off by a few units in the last place; a third decimal is more.
    if (percent * 100.0 - hundredths).abs() > 1e-6 {
        return Err(PercentError::TooFine(percent));
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 10,000, by the check above")]
    let hundredths = hundredths as u16;
    Weight::from_hundredths(hundredths).ok_or(PercentError::OutOfRange(percent))
}

/// The weight that a person wrote, with or without a percent sign.
pub fn weight_from_text(text: &str) -> Result<Weight, PercentError> {
    let number = text.trim().trim_end_matches('%').trim_end();
    number.parse().map_err(|_| PercentError::NotANumber).and_then(weight_from_percent)
}

/// Percent as JSON carries it: 12.5 for 12.50 %.
pub fn percent(weight: Weight) -> f64 {
    f64::from(weight.hundredths()) / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_weight_survives_the_way_through_text_and_json() {
        for hundredths in 0..=10_000 {
            let weight = Weight::from_hundredths(hundredths).expect("in range");
            assert_eq!(weight_from_percent(percent(weight)), Ok(weight), "{weight}");
            assert_eq!(weight_from_text(&weight.to_string()), Ok(weight), "{weight}");
            let json = serde_json::to_string(&percent(weight)).expect("a number");
            assert_eq!(weight_from_text(&json), Ok(weight), "{weight}");
        }
    }

    #[test]
    fn what_is_no_weight_is_refused() {
        for (text, expected) in [
            ("12.345", PercentError::TooFine(12.345)),
            ("0.001", PercentError::TooFine(0.001)),
            ("99.999", PercentError::TooFine(99.999)),
            ("100.01", PercentError::OutOfRange(100.01)),
            ("-1", PercentError::OutOfRange(-1.0)),
            ("inf", PercentError::OutOfRange(f64::INFINITY)),
            ("", PercentError::NotANumber),
            ("ten", PercentError::NotANumber),
        ] {
            assert_eq!(weight_from_text(text), Err(expected), "{text}");
        }
        assert!(weight_from_text("NaN").is_err());
    }

    #[test]
    fn a_percent_sign_is_allowed() {
        for text in ["12.5", "12.50", "12.5%", " 12.5 % "] {
            assert_eq!(weight_from_text(text).map(Weight::hundredths), Ok(1250), "{text}");
        }
    }
}
