//! Requests that cannot be read are the caller's fault and say so.
//!
//! tonic answers them with INTERNAL or OUT_OF_RANGE and without details, before
//! any handler is called. Everything that the handlers refuse has details, so
//! an answer without them is tonic's own.

use std::task::{Context, Poll};

use futures_util::future::{FutureExt, Map};
use http::{Request, Response};
use tonic::{Code, Status};
use tower::Service;

use crate::error::Error;

/// Only calls under this prefix are answered for.
const OURS: &str = "/claudepool.";

/// Answers for requests that tonic could not read.
#[derive(Clone, Debug)]
pub struct MalformedService<S> {
    inner: S,
}

impl<S> MalformedService<S> {
    /// Around `inner`.
    pub fn new(inner: S) -> Self {
        Self { inner }
    }
}

/// What is done with a response.
type Explain<B, E> = fn(Result<Response<B>, E>) -> Result<Response<B>, E>;

impl<S, A, B> Service<Request<A>> for MalformedService<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    B: Default,
{
    type Response = Response<B>;
    type Error = S::Error;
    type Future = Map<S::Future, Explain<B, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let explain: Explain<B, S::Error> = if request.uri().path().starts_with(OURS) {
            |result| result.map(explain)
        } else {
            |result| result
        };
        self.inner.call(request).map(explain)
    }
}

fn explain<B: Default>(response: Response<B>) -> Response<B> {
    let headers = response.headers();
    if headers.contains_key("grpc-status-details-bin") {
        return response;
    }
    let Some(status) = Status::from_header_map(headers) else {
        return response;
    };
    match status.code() {
        Code::Internal | Code::OutOfRange | Code::ResourceExhausted => {
            let (field, message) = locate(status.message());
            Status::from(Error::invalid(field, message)).into_http()
        }
        _ => response,
    }
}

/// The field's path and what is wrong with it, out of a decoder's message such
/// as `failed to decode Protobuf message: Inner.b: Outer.a: invalid string`,
/// which names the innermost first. No field: the whole request.
fn locate(message: &str) -> (String, String) {
    let Some(rest) = message.strip_prefix("failed to decode Protobuf message: ") else {
        return (
            String::new(),
            format!("the request cannot be read: {message}"),
        );
    };
    let mut path = Vec::new();
    let mut text = rest;
    while let Some((place, tail)) = text.split_once(": ")
        && let Some((kind, field)) = place.split_once('.')
        && kind.starts_with(|c: char| c.is_ascii_uppercase())
        && !place.contains(' ')
    {
        path.push(field);
        text = tail;
    }
    path.reverse();
    (path.join("."), format!("cannot be decoded: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb;
    use prost::Message;

    #[test]
    fn a_damaged_text_is_named_by_its_path() {
        let mut bytes = pb::SubmitRequest {
            task: Some(pb::TaskSpec {
                working_dir: "zzzz".into(),
                ..Default::default()
            }),
            ..Default::default()
        }
        .encode_to_vec();
        let at = bytes.iter().position(|b| *b == b'z').expect("encoded");
        bytes[at] = 0xff;
        let error = pb::SubmitRequest::decode(&bytes[..]).expect_err("not UTF-8");

        let (field, message) = locate(&error.to_string());

        assert_eq!(field, "task.working_dir");
        assert!(message.contains("UTF-8"), "{message}");
    }

    #[test]
    fn what_is_no_decoder_message_is_passed_on() {
        let (field, message) = locate("Missing request message.");
        assert_eq!(field, "");
        assert!(message.ends_with("Missing request message."));
    }
}
