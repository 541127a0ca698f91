//! Subjects that know what they carry.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use mlx_errors::{Error, ErrorKind, Result};

/// A concrete subject whose messages are `M`.
///
/// It is never empty, holds no wildcard and no whitespace, and so can never name more than one subject.
///
/// ```
/// use mlx_types::Subject;
/// use mlx_types::messages::HealthCheck;
///
/// static LAB: Subject<HealthCheck> = Subject::from_static("lab.health");
/// assert_eq!(LAB.as_str(), "lab.health");
/// assert!(Subject::<HealthCheck>::new("lab.*").is_err());
/// ```
pub struct Subject<M> {
    text: Cow<'static, str>,
    payload: PhantomData<fn() -> M>,
}

impl<M> Subject<M> {
    /// A subject of your own.
    ///
    /// # Errors
    /// `SUBJECT_INVALID` where a token is empty or holds whitespace, a control character or a wildcard,
    /// or where the whole is longer than 1024 bytes.
    pub fn new(subject: impl Into<String>) -> Result<Self> {
        let text = subject.into();
        check_subject(&text, Wildcards::Refused)?;
        Ok(Self { text: Cow::Owned(text), payload: PhantomData })
    }

    /// A subject known when the program is built.
    ///
    /// # Panics
    /// At build time, where it initialises a constant or a static, if the subject is not a concrete one:
    ///
    /// ```compile_fail
    /// # use mlx_types::{Subject, messages::HealthCheck};
    /// static WIDE: Subject<HealthCheck> = Subject::from_static("lab.*");
    /// ```
    pub const fn from_static(subject: &'static str) -> Self {
        assert!(is_static_subject(subject, Wildcards::Refused), "not a concrete subject");
        Self { text: Cow::Borrowed(subject), payload: PhantomData }
    }

    /// The subject.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The subject, where it is one that was known when the program was built.
    pub fn as_static(&self) -> Option<&'static str> {
        as_static(&self.text)
    }

    /// A subject made of parts that are valid by their types.
    pub(crate) fn trusted(text: String) -> Self {
        debug_assert!(check_subject(&text, Wildcards::Refused).is_ok(), "{text}");
        Self { text: Cow::Owned(text), payload: PhantomData }
    }
}

/// Subjects to listen on, with wildcards perhaps, whose messages are `M`.
///
/// `*` stands for one token, `>` for all that follow and so comes last.
///
/// ```
/// use mlx_types::{Pattern, messages::HealthCheck};
///
/// let all = Pattern::<HealthCheck>::new("lab.*.health")?;
/// assert!(Pattern::<HealthCheck>::new("lab.>.health").is_err()); // a `>` is the last token
/// # Ok::<(), mlx_errors::Error>(())
/// ```
pub struct Pattern<M> {
    text: Cow<'static, str>,
    payload: PhantomData<fn() -> M>,
}

impl<M> Pattern<M> {
    /// A pattern of your own.
    ///
    /// # Errors
    /// `SUBJECT_INVALID` where a token is empty or holds whitespace, a control character or a wildcard beside other
    /// characters, where `>` is not the last token, or where the whole is longer than 1024 bytes.
    pub fn new(pattern: impl Into<String>) -> Result<Self> {
        let text = pattern.into();
        check_subject(&text, Wildcards::Allowed)?;
        Ok(Self { text: Cow::Owned(text), payload: PhantomData })
    }

    /// A pattern known when the program is built.
    ///
    /// # Panics
    /// At build time, where it initialises a constant or a static, if it is not a valid pattern.
    pub const fn from_static(pattern: &'static str) -> Self {
        assert!(is_static_subject(pattern, Wildcards::Allowed), "not a valid pattern");
        Self { text: Cow::Borrowed(pattern), payload: PhantomData }
    }

    /// The pattern.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The pattern, where it is one that was known when the program was built.
    pub fn as_static(&self) -> Option<&'static str> {
        as_static(&self.text)
    }
}

impl<M> From<Subject<M>> for Pattern<M> {
    fn from(subject: Subject<M>) -> Self {
        Self { text: subject.text, payload: PhantomData }
    }
}

/// A subject on which a `Q` is asked and an `R` answered.
///
/// ```
/// use mlx_types::RequestSubject;
/// use mlx_types::messages::{HealthCheck, HealthReport};
///
/// // Asked with a `HealthCheck`, and answered with a `HealthReport`; anything else does not compile.
/// const HEALTH: RequestSubject<HealthCheck, HealthReport> = RequestSubject::from_static("lab.health");
/// ```
pub struct RequestSubject<Q, R> {
    request: Subject<Q>,
    reply: PhantomData<fn() -> R>,
}

impl<Q, R> RequestSubject<Q, R> {
    /// A subject of your own; fails as [`Subject::new`] does.
    pub fn new(subject: impl Into<String>) -> Result<Self> {
        Subject::new(subject).map(|request| Self { request, reply: PhantomData })
    }

    /// A subject known when the program is built; panics as [`Subject::from_static`] does.
    pub const fn from_static(subject: &'static str) -> Self {
        Self { request: Subject::from_static(subject), reply: PhantomData }
    }

    /// Built from parts that are known to be valid.
    pub(crate) fn trusted(text: String) -> Self {
        Self { request: Subject::trusted(text), reply: PhantomData }
    }

    /// The subject that the questions are published to.
    pub const fn as_subject(&self) -> &Subject<Q> {
        &self.request
    }

    /// The subject.
    pub fn as_str(&self) -> &str {
        self.request.as_str()
    }

    /// The subject, where it is one that was known when the program was built.
    pub fn as_static(&self) -> Option<&'static str> {
        self.request.as_static()
    }
}

/// Written out because a derive would ask the payload for what only the text must have.
macro_rules! text_impls {
    ($name:ident<$($param:ident),+> { $($field:ident),+ }) => {
        impl<$($param),+> Clone for $name<$($param),+> {
            fn clone(&self) -> Self {
                Self { $($field: self.$field.clone()),+ }
            }
        }

        impl<$($param),+> fmt::Display for $name<$($param),+> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl<$($param),+> fmt::Debug for $name<$($param),+> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:?})"), self.as_str())
            }
        }

        impl<$($param),+> PartialEq for $name<$($param),+> {
            fn eq(&self, other: &Self) -> bool {
                self.as_str() == other.as_str()
            }
        }

        impl<$($param),+> Eq for $name<$($param),+> {}

        impl<$($param),+> std::hash::Hash for $name<$($param),+> {
            fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
                self.as_str().hash(state);
            }
        }

        impl<$($param),+> AsRef<str> for $name<$($param),+> {
            fn as_ref(&self) -> &str {
                self.as_str()
            }
        }
    };
}

text_impls!(Subject<M> { text, payload });
text_impls!(Pattern<M> { text, payload });
text_impls!(RequestSubject<Q, R> { request, reply });

/// Checks one token taken from data, before it becomes part of a subject.
///
/// # Errors
/// `SUBJECT_INVALID` where it is empty or holds whitespace, a control character, `.`, `*` or `>`.
pub fn check_subject_token(token: &str) -> Result<()> {
    match token_fault(token, Wildcards::Refused).or(token.contains('.').then_some("a token holds no `.`")) {
        Some(reason) => Err(invalid(token, reason)),
        None => Ok(()),
    }
}

/// More than any peer needs, and far below the 4 KiB that a server accepts for a whole control line.
const MAX_LENGTH: usize = 1024;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wildcards {
    Allowed,
    Refused,
}

fn check_subject(subject: &str, wildcards: Wildcards) -> Result<()> {
    if subject.is_empty() {
        return Err(invalid(subject, "it is empty"));
    }
    if subject.len() > MAX_LENGTH {
        let start: String = subject.chars().take(32).collect();
        return Err(invalid(&format!("{start}..."), "it is longer than 1024 bytes"));
    }
    let mut tokens = subject.split('.').peekable();
    while let Some(token) = tokens.next() {
        if let Some(reason) = token_fault(token, wildcards) {
            return Err(invalid(subject, reason));
        }
        if token == ">" && tokens.peek().is_some() {
            return Err(invalid(subject, "`>` comes last"));
        }
    }
    Ok(())
}

fn token_fault(token: &str, wildcards: Wildcards) -> Option<&'static str> {
    if token.is_empty() {
        return Some("a token is empty");
    }
    if token.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Some("it holds whitespace or a control character");
    }
    if !token.contains(['*', '>']) {
        return None;
    }
    match wildcards {
        Wildcards::Refused => Some("wildcards are not allowed here"),
        Wildcards::Allowed if token.len() > 1 => Some("a wildcard stands alone between dots"),
        Wildcards::Allowed => None,
    }
}

/// The same rules for constants, where iterators are not to be had; ASCII only.
const fn is_static_subject(subject: &str, wildcards: Wildcards) -> bool {
    let allowed = matches!(wildcards, Wildcards::Allowed);
    let mut rest = subject.as_bytes();
    let mut token = 0_usize;
    let mut wildcard = false;
    if rest.len() > MAX_LENGTH {
        return false;
    }
    while let [byte, tail @ ..] = rest {
        match *byte {
            b'.' if token == 0 => return false,
            b'.' => {
                token = 0;
                wildcard = false;
                rest = tail;
                continue;
            }
            b'*' if allowed && token == 0 => wildcard = true,
            b'>' if allowed && token == 0 && tail.is_empty() => wildcard = true,
            b'*' | b'>' | 0..=b' ' | 0x7f.. => return false,
            _ if wildcard => return false,
            _ => {}
        }
        token += 1;
        rest = tail;
    }
    token > 0
}

#[expect(clippy::ptr_arg, reason = "whether it is borrowed is the question")]
fn as_static(text: &Cow<'static, str>) -> Option<&'static str> {
    match text {
        Cow::Borrowed(text) => Some(text),
        Cow::Owned(_) => None,
    }
}

fn invalid(subject: &str, reason: &str) -> Error {
    Error::new(ErrorKind::InvalidSubject { subject: subject.escape_debug().collect(), reason: reason.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_names_exactly_one_subject() {
        for good in ["a", "worker.register", "$SRV.PING", "_INBOX.x-1", "größe.é"] {
            assert_eq!(Subject::<()>::new(good).unwrap().as_str(), good);
        }
        for bad in
            ["", ".", "a.", ".a", "a..b", "a b", "a\t", "a\r\nPUB x", "*", "a.*", ">", "a.>", "a*b", "\u{a0}", "a\0"]
        {
            let error = Subject::<()>::new(bad).unwrap_err();
            assert_eq!(error.code().as_str(), "SUBJECT_INVALID", "{bad:?}");
            assert!(!error.to_string().contains(['\n', '\r', '\0', '\t']), "{error}");
        }
        assert!(Subject::<()>::new("x".repeat(1024)).is_ok());
        assert!(Subject::<()>::new("x".repeat(1025)).unwrap_err().to_string().len() < 120);
    }

    #[test]
    fn a_pattern_holds_wildcards_in_their_places() {
        for good in ["a", "*", ">", "a.*", "*.a.*", "a.>", "*.>"] {
            assert_eq!(Pattern::<()>::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "a.", ">.a", "a*", "a.*b", "a.>>", "a.>.b", "a. b"] {
            assert!(Pattern::<()>::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn constants_follow_the_same_rules() {
        let texts =
            ["", ".", "a", "a.", ".a", "a..b", "a b", "*", "a.*", ">", "a.>", ">.a", "a*b", "a.>>", "*.>", "a\n"];
        for text in texts {
            for wildcards in [Wildcards::Allowed, Wildcards::Refused] {
                assert_eq!(is_static_subject(text, wildcards), check_subject(text, wildcards).is_ok(), "{text:?}");
            }
        }
        assert!(!is_static_subject("ä", Wildcards::Allowed));
        assert!(!is_static_subject(Box::leak("x".repeat(1025).into_boxed_str()), Wildcards::Allowed));
    }

    #[test]
    fn a_token_from_data_cannot_widen_a_subject() {
        assert!(check_subject_token("018f-ab_c").is_ok());
        for bad in ["", "a.b", "*", ">", "a>", "a b", "\u{7}"] {
            assert!(check_subject_token(bad).is_err(), "{bad:?}");
        }
    }
}
