//! What a delivered request says of itself, in the subject that it is acknowledged on.

/// The parts of `$JS.ACK.[<domain>.<account>.]<stream>.<consumer>.<deliveries>.<sequence>.…` that matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Delivery {
    /// How often the request was delivered, this time included.
    pub(super) count: u64,
    /// The request's place in its stream.
    pub(super) sequence: u64,
}

impl Delivery {
    pub(super) fn parse(subject: &str) -> Option<Self> {
        let tokens: Vec<&str> = subject.strip_prefix("$JS.ACK.")?.split('.').collect();
        // Seven tokens; where there are more, two come before, and a random one may come behind.
        let skipped = match tokens.len() {
            7 => 0,
            9.. => 2,
            _ => return None,
        };
        let number = |index: usize| tokens.get(index + skipped)?.parse().ok();
        Some(Self { count: number(2)?, sequence: number(3)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_the_subject_are_read() {
        let delivery = Some(Delivery { count: 3, sequence: 17 });
        assert_eq!(Delivery::parse("$JS.ACK.MLX_INFERENCE.m.3.17.9.1700000000000000000.0"), delivery);
        assert_eq!(Delivery::parse("$JS.ACK.hub.Acc0unt.MLX_INFERENCE.m.3.17.9.1700000000000000000.0"), delivery);
        assert_eq!(Delivery::parse("$JS.ACK.hub.Acc0unt.MLX_INFERENCE.m.3.17.9.1700000000000000000.0.r4nd"), delivery);
    }

    #[test]
    fn anything_else_is_none() {
        for subject in
            ["", "_INBOX.a.1", "$JS.ACK.", "$JS.ACK.a.b.c", "$JS.ACK.S.c.x.17.9.1.0", "$JS.ACK.S.c.1.2.3.4.5.6"]
        {
            assert_eq!(Delivery::parse(subject), None, "{subject}");
        }
    }
}
