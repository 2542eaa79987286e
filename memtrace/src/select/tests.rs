//! What people write, and which pages that means.

mod bits;
mod conditions;
mod model;
mod ranges;
mod selections;

use super::*;

/// The error of `text`, as people see it.
fn refusal<T: std::str::FromStr<Err = ParseSelectError> + std::fmt::Debug>(text: &str) -> String {
    text.parse::<T>().expect_err(text).to_string()
}
