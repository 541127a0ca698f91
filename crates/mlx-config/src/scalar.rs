//! What a plain scalar means: the core schema of YAML 1.2, in which `yes` is a text and `0123` a number.

use serde_json::Number;

use crate::tree::Data;

pub(crate) fn resolve(text: &str) -> Data {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Data::Null,
        "true" | "True" | "TRUE" => Data::Bool(true),
        "false" | "False" | "FALSE" => Data::Bool(false),
        _ => number(text).map_or_else(|| Data::Text(text.to_owned()), Data::Number),
    }
}

/// The number that a text stands for. `.inf` and `.nan` are texts: no field takes them.
pub(crate) fn number(text: &str) -> Option<Number> {
    if let Some(digits) = text.strip_prefix("0x") {
        return u64::from_str_radix(digits, 16).ok().filter(|_| is_digits(digits, 16)).map(Number::from);
    }
    if let Some(digits) = text.strip_prefix("0o") {
        return u64::from_str_radix(digits, 8).ok().filter(|_| is_digits(digits, 8)).map(Number::from);
    }
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if is_digits(unsigned, 10) {
        let text = text.strip_prefix('+').unwrap_or(text);
        let integer = text.parse::<u64>().map(Number::from).or_else(|_| text.parse::<i64>().map(Number::from));
        return integer.ok().or_else(|| text.parse::<f64>().ok().and_then(Number::from_f64));
    }
    if is_float(unsigned) { text.parse::<f64>().ok().and_then(Number::from_f64) } else { None }
}

fn is_digits(text: &str, radix: u32) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_digit(radix))
}

/// `( \. [0-9]+ | [0-9]+ ( \. [0-9]* )? ) ( [eE] [-+]? [0-9]+ )?`
fn is_float(text: &str) -> bool {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent.strip_prefix(['-', '+']).unwrap_or(exponent))),
        None => (text, None),
    };
    let mantissa_holds = match mantissa.split_once('.') {
        Some(("", fraction)) => is_digits(fraction, 10),
        Some((whole, fraction)) => is_digits(whole, 10) && (fraction.is_empty() || is_digits(fraction, 10)),
        None => is_digits(mantissa, 10),
    };
    mantissa_holds && exponent.is_none_or(|exponent| is_digits(exponent, 10))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_scalars_follow_the_core_schema() {
        let shown = |text: &str| match resolve(text) {
            Data::Null => "null".to_owned(),
            Data::Bool(flag) => flag.to_string(),
            Data::Number(number) => format!("number {number}"),
            Data::Text(text) => format!("text {text}"),
            other => format!("{other:?}"),
        };
        for (text, expected) in [
            ("", "null"),
            ("~", "null"),
            ("True", "true"),
            ("FALSE", "false"),
            ("yes", "text yes"),
            ("0123", "number 123"),
            ("-5", "number -5"),
            ("+5", "number 5"),
            ("0x1F", "number 31"),
            ("0o17", "number 15"),
            ("0x", "text 0x"),
            ("0x+1", "text 0x+1"),
            ("1.5", "number 1.5"),
            (".5", "number 0.5"),
            ("1.", "number 1.0"),
            ("1e3", "number 1000.0"),
            ("1e999", "text 1e999"),
            (".", "text ."),
            ("1.2.3", "text 1.2.3"),
            ("-", "text -"),
            (".nan", "text .nan"),
            ("4222x", "text 4222x"),
            ("18446744073709551616", "number 1.8446744073709552e+19"),
        ] {
            assert_eq!(shown(text), expected, "{text:?}");
        }
    }
}
