//! Paths into a document, as users write and read them.

/// A step from a node to one below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Key(String),
    Index(usize),
}

/// Writes a path as users know it: `workers.static[0].url`.
pub(crate) fn dotted(steps: &[Step]) -> String {
    let mut path = String::new();
    for step in steps {
        match step {
            Step::Key(key) => {
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(key);
            }
            Step::Index(index) => {
                path.push('[');
                path.push_str(&index.to_string());
                path.push(']');
            }
        }
    }
    path
}

/// The same for people: a key that may hold a secret, or that is no key at all, is not repeated.
pub(crate) fn shown(steps: &[Step]) -> String {
    const LONGEST: usize = 64;
    let is_shown = |key: &str| {
        key.len() <= LONGEST && !key.contains(|c: char| c.is_whitespace() || c.is_control() || "@:=\"'`".contains(c))
    };
    let steps: Vec<Step> = steps
        .iter()
        .map(|step| match step {
            Step::Key(key) if !is_shown(key) => Step::Key("…".to_owned()),
            other => other.clone(),
        })
        .collect();
    dotted(&steps)
}

/// Reads `workers.static[0].url`.
pub(crate) fn steps(path: &str) -> Option<Vec<Step>> {
    let mut steps = Vec::new();
    for segment in path.split('.') {
        let (key, indices) = segment.split_at(segment.find('[').unwrap_or(segment.len()));
        if key.is_empty() {
            return None;
        }
        steps.push(Step::Key(key.to_owned()));
        for index in indices.split_inclusive(']').filter(|index| !index.is_empty()) {
            let index = index.strip_prefix('[')?.strip_suffix(']')?;
            steps.push(Step::Index(index.parse().ok()?));
        }
    }
    Some(steps)
}
