//! The text format of Prometheus.

use std::fmt::{self, Write};

/// A page of it.
#[derive(Default)]
pub struct Exposition(String);

impl Exposition {
    /// Begins a metric; `kind` is `counter`, `gauge` or `histogram`.
    pub fn family(&mut self, name: &'static str, kind: &str, help: &str) -> Family<'_> {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}"); // a text takes whatever is written
        Family { page: &mut self.0, name }
    }

    /// The page.
    pub fn into_text(self) -> String {
        self.0
    }
}

/// The samples of one metric.
pub struct Family<'a> {
    page: &'a mut String,
    name: &'static str,
}

impl Family<'_> {
    /// A sample without labels.
    pub fn value(&mut self, suffix: &str, value: impl fmt::Display) {
        self.sample(suffix, &[], value);
    }

    /// A sample.
    pub fn sample(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl fmt::Display) {
        let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(self.page, "{}{suffix}{labels} {value}", self.name);
    }
}

/// What the format asks for; a host is called whatever its worker says.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_name_stays_within_its_label() {
        let mut page = Exposition::default();
        page.family("m", "gauge", "H.").sample("_x", &[("host", "a\"} 1\n\\"), ("b", "c")], 2);
        assert_eq!(page.0, "# HELP m H.\n# TYPE m gauge\nm_x{host=\"a\\\"} 1\\n\\\\\",b=\"c\"} 2\n");
    }
}
