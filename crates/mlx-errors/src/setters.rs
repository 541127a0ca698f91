//! Chained setters, written as one line for each field.

/// Writes a chained setter for each field named.
///
/// A struct that may gain fields is `#[non_exhaustive]`, so that others cannot write it as a literal: they take a constructor and
/// chain what differs. `field: set T` takes a `T`; `field: into T` what turns into one; for a field that may be unset,
/// `field: option T` takes a `T` or an `Option` of it, and `field: text` what turns into a `String`.
///
/// For the crates of this workspace: it may change in any version.
#[doc(hidden)]
#[macro_export]
macro_rules! setters {
    ($type:ident { $($field:ident: $kind:ident $($ty:ty)?),* $(,)? }) => {
        impl $type {
            $($crate::setters! { @one $field $kind $($ty)? })*
        }
    };
    (@one $field:ident set $ty:ty) => {
        #[doc = concat!("Sets [`", stringify!($field), "`](Self#structfield.", stringify!($field), ").")]
        #[must_use]
        pub fn $field(mut self, $field: $ty) -> Self {
            self.$field = $field;
            self
        }
    };
    (@one $field:ident into $ty:ty) => {
        #[doc = concat!("Sets [`", stringify!($field), "`](Self#structfield.", stringify!($field), ").")]
        #[must_use]
        pub fn $field(mut self, $field: impl ::core::convert::Into<$ty>) -> Self {
            self.$field = $field.into();
            self
        }
    };
    (@one $field:ident option $ty:ty) => {
        #[doc = concat!("Sets [`", stringify!($field), "`](Self#structfield.", stringify!($field), "); `None` unsets it.")]
        #[must_use]
        pub fn $field(mut self, $field: impl ::core::convert::Into<::core::option::Option<$ty>>) -> Self {
            self.$field = $field.into();
            self
        }
    };
    (@one $field:ident text) => {
        #[doc = concat!("Sets [`", stringify!($field), "`](Self#structfield.", stringify!($field), ").")]
        #[must_use]
        pub fn $field(mut self, $field: impl ::core::convert::Into<::std::string::String>) -> Self {
            self.$field = ::core::option::Option::Some($field.into());
            self
        }
    };
}
