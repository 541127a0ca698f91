//! Where a message goes or comes from, and which rules its payload has to keep.
//!
//! A typed subject pins the payload's type and has it checked. A plain `&str` takes anything that serialises, and
//! checks only that it is a subject.

use mlx_errors::{Result, Violations};
use mlx_types::{Message, Pattern, RequestSubject, Subject};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A subject's text, and what is known of it.
#[derive(Clone, Copy, Debug)]
pub enum Name<'a> {
    /// Known to be valid, because its type says so.
    Typed {
        /// The subject.
        text: &'a str,
        /// The same, where it lives as long as the program: the transport then takes it without a copy.
        fixed: Option<&'static str>,
    },
    /// Text of the caller's, to be checked before use.
    Text(&'a str),
}

impl<'a> Name<'a> {
    pub(crate) fn as_str(self) -> &'a str {
        match self {
            Self::Typed { text, .. } | Self::Text(text) => text,
        }
    }

    /// The subject to publish to: no wildcards.
    pub(crate) fn for_publish(self) -> Result<async_nats::Subject> {
        if let Self::Text(text) = self {
            Subject::<()>::new(text)?;
        }
        Ok(self.into_transport())
    }

    /// The subject to subscribe to: wildcards are fine.
    pub(crate) fn for_subscribe(self) -> Result<async_nats::Subject> {
        if let Self::Text(text) = self {
            Pattern::<()>::new(text)?;
        }
        Ok(self.into_transport())
    }

    fn into_transport(self) -> async_nats::Subject {
        match self {
            Self::Typed { fixed: Some(fixed), .. } => async_nats::Subject::from_static(fixed),
            Self::Typed { text, fixed: None } | Self::Text(text) => async_nats::Subject::from(text),
        }
    }
}

mod sealed {
    pub trait Sealed {}
    impl<M> Sealed for &mlx_types::Subject<M> {}
    impl<M> Sealed for &mlx_types::Pattern<M> {}
    impl<Q, R> Sealed for &mlx_types::RequestSubject<Q, R> {}
    impl Sealed for &str {}
    impl Sealed for &String {}
}

/// Something that an `M` can be published to: `&Subject<M>`, or a `&str` for any serialisable `M`.
///
/// Sealed, and used by handing it to [`Client::publish`](crate::Client::publish).
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not carry a `{M}`",
    label = "publish the payload that this subject is for",
    note = "a `&Subject<M>` takes its own `M` alone; a `&str` takes whatever serialises"
)]
pub trait PublishTo<M: ?Sized>: sealed::Sealed {
    #[doc(hidden)]
    fn name(&self) -> Name<'_>;
    #[doc(hidden)]
    fn check(payload: &M) -> Result<(), Violations>;
}

/// Something that brings `M`s: `&Subject<M>`, `&Pattern<M>`, or a `&str` for any `M` that can be decoded.
///
/// Sealed, and used by handing it to [`Client::subscribe`](crate::Client::subscribe).
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not bring a `{M}`",
    label = "ask for the payload that this subject is for",
    note = "a `&Subject<M>` or `&Pattern<M>` brings its own `M` alone; a `&str` brings whatever can be decoded"
)]
pub trait SubscribeTo<M>: sealed::Sealed {
    #[doc(hidden)]
    fn name(&self) -> Name<'_>;
    #[doc(hidden)]
    fn check(payload: &M) -> Result<(), Violations>;
}

/// Something that answers a `Q` with an `R`: `&RequestSubject<Q, R>`, or a `&str` for any pair.
///
/// Sealed, and used by handing it to [`Client::request`](crate::Client::request).
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not answer a `{Q}` with a `{R}`",
    label = "ask with the payload that this subject is for",
    note = "a `&RequestSubject<Q, R>` takes its own `Q` and brings its own `R`; a `&str` takes whatever serialises, and brings whatever \
            can be decoded"
)]
pub trait RequestTo<Q: ?Sized, R>: sealed::Sealed {
    #[doc(hidden)]
    fn name(&self) -> Name<'_>;
    #[doc(hidden)]
    fn check_request(payload: &Q) -> Result<(), Violations>;
    #[doc(hidden)]
    fn check_reply(payload: &R) -> Result<(), Violations>;
}

/// Something on which `Q`s are answered with `R`s: `&RequestSubject<Q, R>`, or a `&str` for any pair of a payload that can be
/// decoded and an answer that serialises.
///
/// Sealed, and used by handing it to [`Client::serve`](crate::Client::serve).
#[diagnostic::on_unimplemented(
    message = "on `{Self}` a `{Q}` is not answered with a `{R}`",
    label = "this subject does not take such a handler",
    note = "a handler is `|request: Request<Q>| async move {{ Ok(answer) }}`; a `&RequestSubject<Q, R>` has its own `Q` and `R`, \
            and with a `&str` `Q` can be decoded and `R` serialises"
)]
pub trait ServeTo<Q, R>: sealed::Sealed {
    #[doc(hidden)]
    fn name(&self) -> Name<'_>;
    #[doc(hidden)]
    fn check_request(payload: &Q) -> Result<(), Violations>;
    #[doc(hidden)]
    fn check_reply(payload: &R) -> Result<(), Violations>;
}

/// The names of a typed address are the same: static where the subject is, checked when it was made.
macro_rules! typed_name {
    () => {
        fn name(&self) -> Name<'_> {
            Name::Typed { text: self.as_str(), fixed: self.as_static() }
        }
    };
}

impl<M: Message> PublishTo<M> for &Subject<M> {
    typed_name!();

    fn check(payload: &M) -> Result<(), Violations> {
        payload.check()
    }
}

impl<M: Message> SubscribeTo<M> for &Subject<M> {
    typed_name!();

    fn check(payload: &M) -> Result<(), Violations> {
        payload.check()
    }
}

impl<M: Message> SubscribeTo<M> for &Pattern<M> {
    typed_name!();

    fn check(payload: &M) -> Result<(), Violations> {
        payload.check()
    }
}

impl<Q: Message, R: Message> RequestTo<Q, R> for &RequestSubject<Q, R> {
    typed_name!();

    fn check_request(payload: &Q) -> Result<(), Violations> {
        payload.check()
    }

    fn check_reply(payload: &R) -> Result<(), Violations> {
        payload.check()
    }
}

impl<Q: Message, R: Message> ServeTo<Q, R> for &RequestSubject<Q, R> {
    typed_name!();

    fn check_request(payload: &Q) -> Result<(), Violations> {
        payload.check()
    }

    fn check_reply(payload: &R) -> Result<(), Violations> {
        payload.check()
    }
}

/// Plain text as an address, for `&str` and `&String` alike.
macro_rules! text_address {
    ($($text:ty),+) => {$(
        impl<M: Serialize + ?Sized> PublishTo<M> for $text {
            fn name(&self) -> Name<'_> {
                Name::Text(self)
            }

            fn check(_: &M) -> Result<(), Violations> {
                Ok(())
            }
        }

        impl<M: DeserializeOwned> SubscribeTo<M> for $text {
            fn name(&self) -> Name<'_> {
                Name::Text(self)
            }

            fn check(_: &M) -> Result<(), Violations> {
                Ok(())
            }
        }

        impl<Q: Serialize + ?Sized, R: DeserializeOwned> RequestTo<Q, R> for $text {
            fn name(&self) -> Name<'_> {
                Name::Text(self)
            }

            fn check_request(_: &Q) -> Result<(), Violations> {
                Ok(())
            }

            fn check_reply(_: &R) -> Result<(), Violations> {
                Ok(())
            }
        }

        impl<Q: DeserializeOwned, R: Serialize> ServeTo<Q, R> for $text {
            fn name(&self) -> Name<'_> {
                Name::Text(self)
            }

            fn check_request(_: &Q) -> Result<(), Violations> {
                Ok(())
            }

            fn check_reply(_: &R) -> Result<(), Violations> {
                Ok(())
            }
        }
    )+};
}

text_address!(&str, &String);
