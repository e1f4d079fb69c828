//! The parameters of an order for a simulated machine:
//!
//! * `seconds`: how long the work takes at speed 1; fractions are allowed. 10 by default.
//! * `fail_at`: the share of the way at which it faults, as `0.5` or `50%`. It does not fault by default.
//! * `refuse_stop`: with `true` it cannot be stopped. `false` by default.

use std::collections::BTreeMap;

use crate::config::{ParamError, check_size};
use crate::machine::types::fraction;

const DEFAULT_SECONDS: f64 = 10.0;
/// A month: longer than any job, and far from any overflow.
const LONGEST_SECONDS: f64 = 31.0 * 24.0 * 3600.0;
const NAMES: [&str; 3] = ["fail_at", "refuse_stop", "seconds"];

pub(super) struct Asked {
    pub(super) seconds: f64,
    pub(super) fail_at: Option<f64>,
    pub(super) refuse_stop: bool,
}

pub(super) fn parse(params: &BTreeMap<String, String>) -> Result<Asked, ParamError> {
    let mut asked = Asked { seconds: DEFAULT_SECONDS, fail_at: None, refuse_stop: false };
    for (name, value) in params {
        check_size(name, value)?;
        let bad = |expected: &str| ParamError::bad(name, value, expected);
        match name.as_str() {
            "seconds" => {
                let seconds = value.parse().ok().filter(|value| (0.0..=LONGEST_SECONDS).contains(value));
                asked.seconds =
                    seconds.ok_or_else(|| bad(&format!("a number from 0 to {LONGEST_SECONDS}")))?;
            }
            "fail_at" => {
                let share = fraction(value).ok_or_else(|| bad("a share from 0 to 1, or 0% to 100%"))?;
                asked.fail_at = Some(share);
            }
            "refuse_stop" => asked.refuse_stop = value.parse().map_err(|_| bad("true or false"))?,
            _ => return Err(ParamError::unknown(name, NAMES)),
        }
    }
    Ok(asked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_checked() {
        let asked = |name: &str, value: &str| parse(&BTreeMap::from([(name.to_owned(), value.to_owned())]));
        assert_eq!(asked("seconds", "0.5").unwrap().seconds, 0.5);
        assert_eq!(asked("fail_at", "50%").unwrap().fail_at, Some(0.5));
        assert!(asked("refuse_stop", "true").unwrap().refuse_stop);
        for (name, value) in [
            ("seconds", "-1"),
            ("seconds", "NaN"),
            ("seconds", "inf"),
            ("seconds", "1e9"),
            ("fail_at", "2"),
            ("fail_at", "half"),
            ("refuse_stop", "yes"),
            ("speed", "2"),
        ] {
            assert!(asked(name, value).is_err(), "{name}={value}");
        }
    }
}
