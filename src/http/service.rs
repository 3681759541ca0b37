//! The service that the layer makes, and the future of its response.
//!
//! Invariants:
//! 1. The instance that was polled ready is the one that is called.
//! 2. What fails here is answered; errors are those of the service inside alone.
//! 3. A request that is passed on costs nothing but a look at its method and headers: nothing is boxed for it.

use std::fmt;
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::request::Parts;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::body::PassedBody;
use super::guard::{Guarded, guarded, is_grpc};
use super::handle::Count;
use super::header;
use super::layer::Settings;
use super::lent::Slot;
use super::problem::{Problem, ProblemCode};
use crate::key::Key;

/// A service behind an [`IdempotencyLayer`](super::IdempotencyLayer).
///
/// It takes what the service inside takes, with the body in a [`PassedBody`], and answers likewise. The service inside
/// must be `Clone`: a request with a key may outlive the connection that the service belongs to.
#[derive(Clone)]
pub struct Idempotency<S> {
    inner: S,
    settings: Arc<Settings>,
}

/// What a look at the head of a request comes to.
enum Look {
    PassOn,
    Answer(Problem),
    Guard(Key),
}

impl<S> Idempotency<S> {
    pub(super) fn new(inner: S, settings: Arc<Settings>) -> Self {
        Self { inner, settings }
    }

    /// Looks at the head alone: neither is the body read nor the store touched (P9).
    fn look(&self, parts: &Parts) -> Look {
        let settings = &self.settings;
        // A slot is there already where a layer outside guards the request.
        if !settings.methods.contains(&parts.method) || parts.extensions.get::<Slot>().is_some() {
            return Look::PassOn;
        }
        let key = match header::key(&parts.headers, &settings.header, settings.syntax) {
            Ok(Some(key)) => key,
            Ok(None) if settings.is_required => return Look::Answer(ProblemCode::KeyMissing.into()),
            Ok(None) => return Look::PassOn,
            Err(malformed) => {
                let detail = format!("The header cannot be taken for a key: {malformed}.");
                return Look::Answer(Problem::from(ProblemCode::KeyMalformed).with_detail(detail));
            }
        };
        match settings.scope(parts).map(|scope| Key::new(scope, key)) {
            Some(Ok(key)) => Look::Guard(key),
            Some(Err(_)) | None => Look::Answer(ProblemCode::PrincipalMissing.into()),
        }
    }
}

impl<S, B, R> Service<Request<B>> for Idempotency<S>
where
    S: Service<Request<PassedBody<B>>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    B: Body<Data: Send, Error: Send> + Send + 'static,
    R: Body<Data: Send, Error: Send> + Send + 'static,
{
    type Response = Response<PassedBody<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, R, S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (parts, body) = request.into_parts();
        let state = match self.look(&parts) {
            Look::PassOn => {
                let request = Request::from_parts(parts, PassedBody::untouched(body));
                State::Passed { future: self.inner.call(request) }
            }
            Look::Answer(problem) => {
                self.settings.handle.count(Count::Refused);
                State::Answered { response: Some(self.settings.answer(&problem, is_grpc(&parts.headers))) }
            }
            Look::Guard(key) => {
                let next = self.inner.clone();
                let inner = mem::replace(&mut self.inner, next);
                let settings = Arc::clone(&self.settings);
                State::Guarded { work: Box::pin(guarded(settings, inner, key, parts, body)) }
            }
        };
        ResponseFuture { state }
    }
}

impl<S: fmt::Debug> fmt::Debug for Idempotency<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Idempotency").field("inner", &self.inner).field("settings", &self.settings).finish()
    }
}

pin_project! {
    /// The response of a service behind the layer, on its way.
    ///
    /// Dropped, it drops the handler of a request without a key, as ever; that of one with a key goes on, unless the
    /// layer is [attached](super::IdempotencyLayer::attached).
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<F, R: Body, E> {
        #[pin]
        state: State<F, R, E>,
    }
}

pin_project! {
    #[project = StateProjected]
    enum State<F, R: Body, E> {
        Passed { #[pin] future: F },
        Answered { response: Option<Response<PassedBody<R>>> },
        Guarded { work: Guarded<R, E> },
    }
}

impl<F, R, E> Future for ResponseFuture<F, R, E>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: Body,
{
    type Output = Result<Response<PassedBody<R>>, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProjected::Passed { future } => {
                future.poll(context).map_ok(|response| response.map(PassedBody::untouched))
            }
            // Polled again after it was answered, which no caller may do, it never answers.
            StateProjected::Answered { response } => response.take().map_or(Poll::Pending, |r| Poll::Ready(Ok(r))),
            StateProjected::Guarded { work } => work.as_mut().poll(context),
        }
    }
}

impl<F, R: Body, E> fmt::Debug for ResponseFuture<F, R, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
