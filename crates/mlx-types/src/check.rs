//! From garde's report to our violations: member names as they are on the wire, messages that say what would be right.

#![expect(clippy::trivially_copy_pass_by_ref, clippy::ref_option, reason = "the signatures that garde calls")]

use garde::Validate;
use mlx_errors::{Violation, Violations};

/// Checks the bounds of `value`, each violation with the path of its member as written in JSON.
pub(crate) fn bounds<T>(value: &T) -> Result<(), Violations>
where
    T: Validate,
    T::Context: Default,
{
    value.validate().map_err(|report| {
        let mut violations: Vec<Violation> = report.iter().map(violation).collect();
        // An infinity is beyond every bound as well; that it is none says enough.
        violations.dedup_by(|next, first| next.path == first.path);
        violations.into()
    })
}

/// For `#[garde(custom(..))]` on numbers: JSON has no NaN and no infinity, and a peer would read `null`.
pub(crate) fn finite(value: &f64, _: &()) -> garde::Result {
    if value.is_finite() { Ok(()) } else { Err(garde::Error::new("must be a finite number")) }
}

/// [`finite`], for optional members.
pub(crate) fn finite_if_set(value: &Option<f64>, context: &()) -> garde::Result {
    value.as_ref().map_or(Ok(()), |value| finite(value, context))
}

/// For numbers that must be greater than 0; the schema says `exclusiveMinimum`.
pub(crate) fn positive(value: &f64, context: &()) -> garde::Result {
    finite(value, context)?;
    if *value > 0.0 { Ok(()) } else { Err(garde::Error::new("must be greater than 0")) }
}

/// [`positive`], for optional members.
pub(crate) fn positive_if_set(value: &Option<f64>, context: &()) -> garde::Result {
    value.as_ref().map_or(Ok(()), |value| positive(value, context))
}

fn violation((path, error): &(garde::Path, garde::Error)) -> Violation {
    let text = error.message();
    let (rule, message) = if let Some(limit) = text.strip_prefix("lower than ") {
        ("range", format!("must be at least {limit}"))
    } else if let Some(limit) = text.strip_prefix("greater than ") {
        ("range", format!("must be at most {limit}"))
    } else if let Some(limit) = text.strip_prefix("length is lower than ") {
        ("length", format!("must have a length of at least {limit}"))
    } else if let Some(limit) = text.strip_prefix("length is greater than ") {
        ("length", format!("must have a length of at most {limit}"))
    } else {
        ("value", text.to_owned())
    };
    Violation::new(wire_path(&path.to_string()), rule, message)
}

/// `skills.total_model_size` to `skills.totalModelSize`; the unit `gb` keeps its capitals.
fn wire_path(path: &str) -> String {
    let mut wire = String::with_capacity(path.len());
    for (index, segment) in path.split('.').enumerate() {
        if index > 0 {
            wire.push('.');
        }
        for (index, word) in segment.split('_').filter(|word| !word.is_empty()).enumerate() {
            let mut letters = word.chars();
            match letters.next() {
                _ if index > 0 && word == "gb" => wire.push_str("GB"),
                Some(first) if index > 0 => {
                    wire.extend(first.to_uppercase());
                    wire.push_str(letters.as_str());
                }
                _ => wire.push_str(word),
            }
        }
    }
    wire
}

#[cfg(test)]
mod tests {
    use super::wire_path;

    #[test]
    fn paths_are_written_as_on_the_wire() {
        assert_eq!(wire_path("skills.total_model_size"), "skills.totalModelSize");
        assert_eq!(wire_path("metrics.memory_used_gb"), "metrics.memoryUsedGB");
        assert_eq!(wire_path("workers.static_[2].priority"), "workers.static[2].priority");
        assert_eq!(wire_path(""), "");
    }
}
