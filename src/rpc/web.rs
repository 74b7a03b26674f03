//! Browsers: gRPC-Web, and from which pages it may be called.
//!
//! A page of any site can make its reader's browser call a server on loopback.
//! So a request that names its origin is refused unless the operator listed
//! it; what is no browser sends no origin.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, CONNECTION, CONTENT_TYPE, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use serde::{Deserialize, Serialize};
use tonic::body::Body;
use tower::Service;

/// What a page may send.
const SENT: HeaderValue = HeaderValue::from_static(
    "authorization,content-type,grpc-accept-encoding,grpc-timeout,traceparent,tracestate,\
     x-grpc-web,x-user-agent",
);
/// What a page may read.
const READ: HeaderValue = HeaderValue::from_static(
    "grpc-encoding,grpc-message,grpc-retry-pushback-ms,grpc-status,grpc-status-details-bin",
);
/// How long a browser remembers the answer, in seconds: as long as any does.
const REMEMBERED: HeaderValue = HeaderValue::from_static("7200");

/// How browsers may call.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Web {
    /// The origins of pages that may call, each `https://host` or
    /// `http://host:port` as browsers send it. There is no wildcard. Default:
    /// none, so that no page can.
    pub origins: Vec<String>,
}

impl Web {
    /// What is wrong with the values: each begins with the key.
    pub fn problems(&self) -> Vec<String> {
        let bad = self.origins.iter().filter(|origin| !is_origin(origin));
        bad.map(|origin| {
            format!("origins: `{origin}` is no origin: say https://host or http://host:port")
        })
        .collect()
    }
}

/// Whether a browser could send it: scheme and authority in lower case.
fn is_origin(text: &str) -> bool {
    let authority = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"));
    authority.is_some_and(|authority| {
        authority.parse::<http::uri::Authority>().is_ok()
            && !authority.contains(|c: char| c == '@' || c == '*' || c.is_ascii_uppercase())
    })
}

/// Lets those pass who may call.
#[derive(Clone, Debug)]
pub struct WebService<S> {
    inner: S,
    origins: Arc<[String]>,
}

impl<S> WebService<S> {
    /// Around `inner`, which speaks gRPC-Web.
    pub fn new(inner: S, web: &Web) -> Self {
        let origins = web.origins.clone().into();
        Self { inner, origins }
    }

    /// What is answered without asking further.
    fn refusal<B>(&self, request: &Request<B>) -> Option<StatusCode> {
        let headers = request.headers();
        if let Some(origin) = headers.get(ORIGIN) {
            let listed = self
                .origins
                .iter()
                .any(|o| o.as_bytes() == origin.as_bytes());
            if !listed {
                return Some(StatusCode::FORBIDDEN);
            }
            if request.method() == Method::OPTIONS {
                return Some(StatusCode::NO_CONTENT);
            }
        }
        // HTTP/1 is for gRPC-Web alone.
        if request.version() < Version::HTTP_2 {
            let kind = headers
                .get(CONTENT_TYPE)
                .map_or(&b""[..], |kind| kind.as_bytes());
            if !kind.starts_with(b"application/grpc-web") {
                return Some(StatusCode::UNSUPPORTED_MEDIA_TYPE);
            }
        }
        None
    }
}

impl<S, B> Service<Request<B>> for WebService<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let origin = request.headers().get(ORIGIN).cloned();
        if let Some(status) = self.refusal(&request) {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = status;
            match origin {
                Some(origin) if status == StatusCode::NO_CONTENT => {
                    let headers = response.headers_mut();
                    headers.insert(
                        ACCESS_CONTROL_ALLOW_METHODS,
                        HeaderValue::from_static("POST"),
                    );
                    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, SENT);
                    headers.insert(ACCESS_CONTROL_MAX_AGE, REMEMBERED);
                    allow(headers, origin);
                }
                _ if request.version() < Version::HTTP_2 => {
                    let close = HeaderValue::from_static("close");
                    response.headers_mut().insert(CONNECTION, close);
                }
                _ => {}
            }
            return Box::pin(std::future::ready(Ok(response)));
        }
        let answer = self.inner.call(request);
        Box::pin(async move {
            let mut response = answer.await?;
            if let Some(origin) = origin {
                allow(response.headers_mut(), origin);
            }
            Ok(response)
        })
    }
}

/// Lets the page of a listed origin read the answer.
fn allow(headers: &mut HeaderMap, origin: HeaderValue) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, READ);
    headers.append(VARY, HeaderValue::from_static("origin"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_browser_sends_is_an_origin() {
        for (origin, good) in [
            ("https://pool.example.org", true),
            ("http://localhost:3000", true),
            ("https://[::1]:8443", true),
            ("*", false),
            ("null", false),
            ("https://*.example.org", false),
            ("https://pool.example.org/", false),
            ("https://Pool.example.org", false),
            ("https://me@pool.example.org", false),
            ("pool.example.org", false),
            ("https://", false),
        ] {
            let web = Web {
                origins: vec![origin.into()],
            };
            assert_eq!(web.problems().is_empty(), good, "{origin}");
        }
    }
}
