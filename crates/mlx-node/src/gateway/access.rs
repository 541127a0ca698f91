//! Who may ask: keys, and the web pages whose scripts may.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use mlx_types::Secret;
use subtle::{Choice, ConstantTimeEq};
use tower_http::cors::{AllowOrigin, CorsLayer, ExposeHeaders};

use super::Gateway;
use super::completions::WORKER;
use super::error::ApiError;

/// The keys of which a request needs one, where there are any.
#[derive(Debug)]
pub(super) struct Keys(Vec<Secret<String>>);

impl Keys {
    pub(super) fn new(keys: Vec<Secret<String>>) -> Self {
        Self(keys)
    }

    fn check(&self, request: &Request) -> Result<(), ApiError> {
        if self.0.is_empty() {
            return Ok(());
        }
        let authorization = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let Some(key) = authorization.and_then(bearer) else {
            let message = "this gateway wants a key: send the header `authorization: Bearer KEY`, with one of `controller.apiKeys`";
            return Err(ApiError::new(StatusCode::UNAUTHORIZED, "invalid_api_key", message));
        };
        // All of them, each in a time that says nothing about how much of it was right.
        let known =
            self.0.iter().fold(Choice::from(0), |known, own| known | own.expose().as_bytes().ct_eq(key.as_bytes()));
        if bool::from(known) {
            return Ok(());
        }
        Err(ApiError::new(StatusCode::UNAUTHORIZED, "invalid_api_key", "this key is none of the gateway's"))
    }
}

fn bearer(authorization: &str) -> Option<&str> {
    let (scheme, key) = authorization.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
}

/// Lets a request pass, or refuses it.
pub(super) async fn check(State(gateway): State<Arc<Gateway>>, request: Request, next: Next) -> Response {
    match gateway.keys.check(&request) {
        Ok(()) => next.run(request).await,
        Err(refusal) => ([(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))], refusal).into_response(),
    }
}

/// Lets the scripts of these pages ask; none, where no page may.
pub(super) fn cross_origin(origins: &[String]) -> Option<CorsLayer> {
    if origins.is_empty() {
        return None;
    }
    let allowed = if origins.iter().any(|origin| origin == "*") {
        AllowOrigin::any()
    } else {
        // Those that are no header were refused with the configuration.
        AllowOrigin::list(origins.iter().filter_map(|origin| origin.parse().ok()))
    };
    let exposed: [HeaderName; 2] = [WORKER, header::RETRY_AFTER];
    Some(
        CorsLayer::new()
            .allow_origin(allowed)
            .allow_methods([Method::GET, Method::POST])
            .allow_headers([header::AUTHORIZATION, header::CONTENT_TYPE])
            .expose_headers(ExposeHeaders::list(exposed)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p3_a_request_needs_one_of_the_keys_where_there_are_any() {
        let asked = |authorization: Option<&str>| {
            let request = Request::builder().uri("/v1/models");
            let request =
                authorization.into_iter().fold(request, |request, value| request.header("authorization", value));
            request.body(axum::body::Body::empty()).unwrap()
        };
        let keys = Keys::new(["first", "second"].map(|key| Secret::new(key.to_owned())).to_vec());
        for right in ["Bearer first", "bearer second", "Bearer  first "] {
            assert!(keys.check(&asked(Some(right))).is_ok(), "{right}");
        }
        for wrong in
            [None, Some("first"), Some("Basic first"), Some("Bearer firs"), Some("Bearer firstt"), Some("Bearer ")]
        {
            assert_eq!(keys.check(&asked(wrong)).unwrap_err().status, StatusCode::UNAUTHORIZED, "{wrong:?}");
        }
        assert!(Keys::new(Vec::new()).check(&asked(None)).is_ok());
    }
}
