//! What may have been meant.

use strsim::damerau_levenshtein;

/// The candidate that a reader would take `found` for, if there is one.
pub(crate) fn nearest<'a>(found: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // A name this long is no misspelling, and the distance is quadratic in its length.
    if found.len() > 128 {
        return None;
    }
    let plain = |text: &str| text.chars().filter(|c| c.is_alphanumeric()).collect::<String>().to_lowercase();
    let wanted = plain(found);
    // A third of the letters may be wrong; names that differ in case and underscores alone are at distance 0.
    let tolerance = (wanted.chars().count() / 3).max(1);
    candidates
        .map(|candidate| (damerau_levenshtein(&wanted, &plain(candidate)), candidate))
        .filter(|(distance, candidate)| *distance <= tolerance && *candidate != found)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn the_nearest_name_is_offered_and_a_far_one_is_not() {
        let names = ["port", "host", "loadBalancing", "httpPort"];
        let near = |found| nearest(found, names.iter().copied());
        assert_eq!(near("prot"), Some("port"));
        assert_eq!(near("load_balancing"), Some("loadBalancing"));
        assert_eq!(near("LoadBalancing"), Some("loadBalancing"));
        assert_eq!(near("http-port"), Some("httpPort"));
        assert_eq!(near("database"), None);
        assert_eq!(near(&"x".repeat(1000)), None);
    }
}
