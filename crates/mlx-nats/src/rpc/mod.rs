//! Messages that are answered.

mod discovery;
mod request;
mod request_many;
mod serve;

pub use request::RequestOptions;
pub(crate) use request::check_answer;
pub use request_many::{RequestManyOptions, Responses};
pub(crate) use serve::{Begin, EndpointSpec, Permit, answer_error, deadline, isolated};
pub use serve::{Request, ServeOptions, Service};
