//! Whose frames a stream holds: those of one incarnation of one worker, without sockets.

use mlx_types::Epoch;

/// The incarnation that a stream is of, as far as it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Run {
    /// Nobody has said anything.
    #[default]
    Unknown,
    /// Who accepted the request said its incarnation; its frames need not.
    Accepted(Epoch),
    /// Frames carry it.
    Marked(Epoch),
    /// Who accepted said its incarnation, and no frame does: a worker whose frames are the plain ones.
    Bare,
    /// Nothing says it: a worker that does not tell.
    Unmarked,
}

impl Run {
    /// Somebody accepted the request.
    pub(super) fn accepted(&mut self, epoch: Option<Epoch>) {
        if let (Self::Unknown, Some(epoch)) = (*self, epoch) {
            *self = Self::Accepted(epoch);
        }
    }

    /// Whether a frame that says this incarnation belongs to the stream. The first one decides what is not known yet.
    pub(super) fn admits(&mut self, epoch: Option<Epoch>) -> bool {
        match (*self, epoch) {
            (Self::Unknown, None) => *self = Self::Unmarked,
            (Self::Unknown, Some(epoch)) => *self = Self::Marked(epoch),
            (Self::Accepted(known), Some(epoch)) if known == epoch => *self = Self::Marked(epoch),
            (Self::Accepted(_), None) => *self = Self::Bare,
            (Self::Bare | Self::Unmarked, None) => {}
            (Self::Marked(known), Some(epoch)) if known == epoch => {}
            _ => return false,
        }
        true
    }

    /// Whether the worker tells its incarnation.
    pub(super) fn is_marked(self) -> bool {
        matches!(self, Self::Accepted(_) | Self::Marked(_) | Self::Bare)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Option<Epoch> = Some(Epoch::from_millis(1));
    const TWO: Option<Epoch> = Some(Epoch::from_millis(2));

    #[test]
    fn s6_frames_of_two_incarnations_are_never_mixed() {
        for accepted in [None, ONE] {
            let mut run = Run::default();
            run.accepted(accepted);
            assert!(run.admits(ONE));
            run.accepted(TWO);
            assert!(run.admits(ONE) && !run.admits(TWO) && !run.admits(None));
        }
        let mut run = Run::default();
        run.accepted(ONE);
        assert!(!run.admits(TWO), "not the one that accepted, although it is the first to speak");
        assert!(run.admits(None) && run.is_marked(), "said by the acceptance already");
        assert!(run.admits(None) && !run.admits(ONE), "one that marks its frames marks them all");
        let mut unmarked = Run::default();
        assert!(unmarked.admits(None) && !unmarked.admits(ONE) && unmarked.admits(None));
    }
}
