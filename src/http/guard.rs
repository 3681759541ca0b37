//! The way of one request with a key: read, claim, run, keep; or an answer of the layer's own.
//!
//! Invariants:
//! 1. The handler runs with a run and never without one; where there is no decision the answer is 503 (P1, P10).
//! 2. No answer that is to be the outcome goes out before it is durable, unless the store failed to keep it (P2).
//! 3. Nothing is claimed before the request is all there, so a slow or broken body holds up nobody.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header, response};
use http_body::Body;
use tokio::runtime::Handle;
use tokio::time::timeout;
use tower_service::Service;

use super::body::{PassedBody, Read, Waits, Whole, read};
use super::handle::{AtWork, Count};
use super::layer::Settings;
use super::lent::Lender;
use super::policy::{Keep, may_be_kept};
use super::problem::{Problem, ProblemCode};
use super::stored::{StoredResponse, is_kept_answer};
use crate::claim::{self, Busy, Claim};
use crate::error::{ErrorKind, Result};
use crate::key::Key;
use crate::payload::Payload;
use crate::progress::Progress;
use crate::record::Outcome;
use crate::run::Run;

/// What says that an answer is the repetition of an earlier one.
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

type Answered<R, E> = Result<Response<PassedBody<R>>, E>;

/// The answer to a request with a key, on its way.
pub(super) type Guarded<R, E> = Pin<Box<dyn Future<Output = Answered<R, E>> + Send>>;

/// Whether these headers are those of gRPC, where statuses stand in other places.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// Answers a request with a key.
pub(super) async fn guarded<S, B, R>(
    settings: Arc<Settings>,
    inner: S,
    key: Key,
    parts: Parts,
    body: B,
) -> Answered<R, S::Error>
where
    S: Service<Request<PassedBody<B>>, Response = Response<R>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    B: Body<Data: Send, Error: Send> + Send + 'static,
    R: Body<Data: Send, Error: Send> + Send + 'static,
{
    let is_grpc = is_grpc(&parts.headers);
    let answered = |code: ProblemCode| Ok(settings.answer(&code.into(), is_grpc));
    let refused = |code| {
        settings.handle.count(Count::Refused);
        answered(code)
    };
    let body = match read(body, settings.request_bytes_max, Waits::ForTheEnd).await {
        Read::Whole(body) => body,
        Read::Over(_) => return refused(ProblemCode::RequestTooLarge),
        Read::Failed(_) => return refused(ProblemCode::BodyBroken),
    };
    let mut run = match settings.claim(&key, &parts, &body).await {
        Ok(Some(Claim::Run(run))) => run,
        Ok(Some(Claim::Replay(outcome))) => return Ok(settings.replay(&key, &outcome, is_grpc)),
        Ok(None | Some(Claim::Wait(_))) => {
            settings.handle.count(Count::Busy);
            return answered(ProblemCode::InProgress);
        }
        Ok(Some(Claim::Reject(_))) => {
            settings.handle.count(Count::Rejected);
            return answered(ProblemCode::KeyReused);
        }
        Ok(Some(Claim::Gone(_))) => {
            settings.handle.count(Count::Gone);
            return answered(ProblemCode::AnswerGone);
        }
        // The request is to be kept with the operation, and does not fit.
        Err(error) if error.kind() == ErrorKind::PayloadTooLarge => return refused(ProblemCode::RequestTooLarge),
        Err(error) => {
            settings.tell(&key, &error);
            settings.handle.count(Count::Unavailable);
            return answered(ProblemCode::Unavailable);
        }
    };
    settings.handle.count(Count::Runs);
    settings.prepare(&mut run);
    let lender = Lender::new(run, Arc::clone(&settings.handle));
    let mut request = Request::from_parts(parts, PassedBody::whole(body));
    request.extensions_mut().insert(lender.slot());
    let work = Work { settings: Arc::clone(&settings), key, lender, is_grpc, is_open: false }.run(inner, request);
    let runtime = Handle::try_current().ok().filter(|_| settings.is_detached);
    let Some(runtime) = runtime else { return work.await };
    let at_work = AtWork::begin(&settings.handle);
    let task = runtime.spawn(async move {
        let _at_work = at_work;
        work.await
    });
    match task.await.map_err(tokio::task::JoinError::try_into_panic) {
        Ok(answer) => answer,
        // It goes on where it would have gone without the layer.
        Err(Ok(panic)) => resume_unwind(panic),
        // The runtime is being shut down, and has dropped the work.
        Err(Err(_)) => answered(ProblemCode::Unavailable),
    }
}

impl Settings {
    /// A problem, as a response.
    pub(super) fn answer<R: Body>(&self, problem: &Problem, is_grpc: bool) -> Response<PassedBody<R>> {
        let style = &self.problems;
        let response = if is_grpc { style.render_grpc(problem) } else { style.render(problem) };
        response.map(|body| PassedBody::whole(whole(body, HeaderMap::new())))
    }

    /// Claims the key; none where another copy is at work.
    async fn claim(&self, key: &Key, parts: &Parts, body: &Whole) -> Result<Option<Claim>> {
        let fingerprint = self.parting.fingerprint(&self.name, parts, &body.data);
        let mut request = claim::Request::from(fingerprint);
        if self.claims.is_deferred {
            request = request.deferred();
        }
        if self.claims.keeps_requests {
            request = request.keep(&Vec::from(body.bytes()));
        }
        match self.store.claim(key, request).await? {
            Claim::Wait(busy) => self.wait(busy).await,
            claim => Ok(Some(claim)),
        }
    }

    /// Waits for the run at work, as long as is asked for and where it can be done.
    async fn wait(&self, mut busy: Busy) -> Result<Option<Claim>> {
        let Some(patience) = self.patience.filter(|_| Handle::try_current().is_ok()) else { return Ok(None) };
        let ends = async {
            loop {
                match busy.outcome().await? {
                    Claim::Wait(next) => busy = next,
                    claim => return Ok(Some(claim)),
                }
            }
        };
        // Tokio cannot be asked whether the runtime has a timer: where there is none this panics, and does not wait.
        match catch_unwind(AssertUnwindSafe(|| timeout(patience, ends))) {
            Ok(ends) => ends.await.unwrap_or(Ok(None)),
            Err(_) => Ok(None),
        }
    }

    /// The answer of an operation that is over, again.
    fn replay<R: Body>(&self, key: &Key, outcome: &Outcome, is_grpc: bool) -> Response<PassedBody<R>> {
        match self.kept(outcome) {
            Ok(Some((response, trailers))) => {
                self.handle.count(Count::Replayed);
                let mut response = response.map(|body| PassedBody::whole(whole(body, trailers)));
                response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
                response
            }
            Ok(None) => {
                self.handle.count(Count::Gone);
                self.answer(&ProblemCode::ReplayUnavailable.into(), is_grpc)
            }
            // Of a newer version. Whoever keeps it may give it again.
            Err(error) => {
                self.tell(key, &error);
                self.handle.count(Count::Unavailable);
                self.answer(&ProblemCode::Unavailable.into(), is_grpc)
            }
        }
    }

    /// What an outcome says that the answer is, with its trailers; none where it says nothing of it.
    fn kept(&self, outcome: &Outcome) -> Result<Option<(Response<Bytes>, HeaderMap)>> {
        if is_kept_answer(outcome.bytes()) {
            let stored = StoredResponse::decode(outcome.bytes())?;
            return Ok(stored.is_captured().then(|| stored.into_parts()));
        }
        let mut rendered = self.render.as_ref().and_then(|render| render(outcome));
        if let Some(response) = &mut rendered {
            let names: Vec<_> = response.headers().keys().filter(|name| !may_be_kept(name)).cloned().collect();
            for name in &names {
                response.headers_mut().remove(name);
            }
        }
        Ok(rendered.map(|response| (response, HeaderMap::new())))
    }
}

/// A body that is all here, with its trailers.
fn whole(body: Bytes, trailers: HeaderMap) -> Whole {
    let data = if body.is_empty() { Vec::new() } else { vec![body] };
    Whole { data, trailers: Some(trailers).filter(|trailers| !trailers.is_empty()) }
}

/// What the layer knows of a request whose handler it runs.
struct Work {
    settings: Arc<Settings>,
    key: Key,
    lender: Lender,
    is_grpc: bool,
    /// Whether the layer has the run back, and did not end it so far.
    is_open: bool,
}

/// However this ends, by a panic, by a client that hangs up or with its runtime too: the run that it leaves without an
/// outcome is counted.
impl Drop for Work {
    fn drop(&mut self) {
        if self.is_open || self.lender.close().is_some_and(|run| !run.is_over()) {
            self.settings.handle.count(Count::Interrupted);
        }
    }
}

impl Work {
    /// Runs the handler, and keeps what it answers.
    async fn run<S, B, R>(mut self, mut inner: S, request: Request<PassedBody<B>>) -> Answered<R, S::Error>
    where
        S: Service<Request<PassedBody<B>>, Response = Response<R>>,
        B: Body,
        R: Body,
    {
        let mut response = inner.call(request).await?;
        let marks = response.extensions_mut();
        let (said, problem) = (marks.remove::<Keep>(), marks.remove::<Problem>());
        if let Some(error) = problem.as_ref().and_then(Problem::cause) {
            self.settings.tell(&self.key, error);
        }
        let run = self.lender.close();
        if run.as_ref().is_some_and(Run::is_over) {
            self.settings.handle.count(Count::Kept);
        }
        let run = run.filter(|run| !run.is_over());
        self.is_open = run.is_some();
        Ok(match (run, problem) {
            (Some(run), Some(problem)) => {
                run.release();
                self.settings.answer(&problem, self.is_grpc)
            }
            (Some(run), None) => self.keep(run, said, response).await,
            (None, problem) => self.already_ended(response, problem.as_ref()),
        })
    }

    /// Gives the operation its outcome, or none, as the answer asks for.
    async fn keep<R: Body>(&mut self, run: Run, said: Option<Keep>, response: Response<R>) -> Response<PassedBody<R>> {
        let settings = Arc::clone(&self.settings);
        let (parts, body) = response.into_parts();
        let is_grpc = is_grpc(&parts.headers);
        let keep = said.unwrap_or_else(|| settings.policy.keep(&parts, status(&parts, None)));
        let is_known = body.size_hint().exact().is_some() || parts.headers.contains_key(header::CONTENT_LENGTH);
        let waits = match keep {
            Keep::Nothing => {
                run.release();
                return Response::from_parts(parts, PassedBody::untouched(body));
            }
            Keep::WholeAnswer => Waits::ForTheEnd,
            Keep::Answer if is_known => Waits::ForTheEnd,
            // Nobody says how long it is; what is unary is all there at once.
            Keep::Answer if is_grpc => Waits::ForNothing,
            Keep::Answer | Keep::Ended => return self.end_alone(run, parts, PassedBody::untouched(body)).await,
        };
        let read = match read(body, settings.response_bytes_max, waits).await {
            Read::Whole(read) => read,
            Read::Over(body) => return self.end_alone(run, parts, body).await,
            Read::Failed(body) => {
                run.release();
                return Response::from_parts(parts, body);
            }
        };
        let status_behind = read.trailers.as_ref().and_then(grpc_status).filter(|_| said.is_none());
        if status_behind.is_some_and(|status| settings.policy.refuses(status)) {
            run.release();
            return Response::from_parts(parts, PassedBody::whole(read));
        }
        self.end_with(run, parts, read).await
    }

    /// Ends the operation with an answer that is all here.
    async fn end_with<R: Body>(&mut self, run: Run, parts: response::Parts, read: Whole) -> Response<PassedBody<R>> {
        let kept = &self.settings.kept_headers;
        let trailers = read.trailers.as_ref().map(|trailers| kept.of(trailers)).unwrap_or_default();
        let stored = StoredResponse::captured(parts.status, kept.of(&parts.headers), trailers, read.bytes());
        if !stored.fits(run.limits.payload_bytes_max) {
            return self.end_alone(run, parts, PassedBody::whole(read)).await;
        }
        let status = status(&parts, read.trailers.as_ref());
        self.end(run, &stored, status, Response::from_parts(parts, PassedBody::whole(read))).await
    }

    /// Ends the operation without its answer, which is passed on.
    async fn end_alone<R: Body>(
        &mut self,
        run: Run,
        parts: response::Parts,
        body: PassedBody<R>,
    ) -> Response<PassedBody<R>> {
        self.settings.handle.count(Count::NotCaptured);
        let (stored, status) = (StoredResponse::not_captured(parts.status), status(&parts, None));
        self.end(run, &stored, status, Response::from_parts(parts, body)).await
    }

    async fn end<R: Body>(
        &mut self,
        run: Run,
        stored: &StoredResponse,
        status: StatusCode,
        response: Response<PassedBody<R>>,
    ) -> Response<PassedBody<R>> {
        let is_failure = status.is_client_error() || status.is_server_error();
        let ended = if is_failure { run.fail(stored).await } else { run.complete(stored).await };
        match ended {
            Ok(_) => self.settings.handle.count(Count::Kept),
            // Another run is at work, and what that comes to is the answer.
            Err(error) if error.kind() == ErrorKind::Fenced => {
                return self.settings.answer(&ProblemCode::InProgress.into(), self.is_grpc);
            }
            // What was done is done, so the client is told; its retry re-enters.
            Err(error) => {
                self.settings.handle.count(Count::NotKept);
                self.settings.tell(&self.key, &error);
            }
        }
        self.is_open = false;
        response
    }

    /// The answer to a request whose handler has ended the run by itself, as every later copy gets it; or has handed
    /// the run on, and then what it says, in the layer's own words where that is a problem.
    fn already_ended<R: Body>(&self, response: Response<R>, problem: Option<&Problem>) -> Response<PassedBody<R>> {
        let settings = &self.settings;
        let as_said = |response: Response<R>| match problem {
            Some(problem) => settings.answer(problem, self.is_grpc),
            None => response.map(PassedBody::untouched),
        };
        let progress = settings.store.progress(&self.key);
        let kept = progress.and_then(|progress| match progress.as_ref().and_then(Progress::outcome) {
            Some(outcome) => settings.kept(outcome),
            None => Ok(None),
        });
        let (mut kept, trailers) = match kept {
            Ok(Some(kept)) => kept,
            Ok(None) => return as_said(response),
            Err(error) => {
                settings.tell(&self.key, &error);
                return as_said(response);
            }
        };
        // What the layers inside add for this client alone goes to it; what is kept it has already.
        let known = kept.headers().clone();
        for (name, value) in response.headers() {
            let is_kept = settings.kept_headers.keeps(name) || known.contains_key(name);
            if !is_kept && name != header::CONTENT_LENGTH {
                kept.headers_mut().append(name.clone(), value.clone());
            }
        }
        kept.map(|body| PassedBody::whole(whole(body, trailers)))
    }
}

/// The status that decides what became of a request: that of gRPC where there is one, wherever it stands.
fn status(parts: &response::Parts, trailers: Option<&HeaderMap>) -> StatusCode {
    let of_grpc = grpc_status(&parts.headers).or_else(|| trailers.and_then(grpc_status));
    of_grpc.unwrap_or(parts.status)
}

/// The status of HTTP that stands for the one of gRPC in these headers or trailers, if there is one (the table of
/// grpc's `doc/http-grpc-status-mapping.md`, the other way round).
fn grpc_status(headers: &HeaderMap) -> Option<StatusCode> {
    let status = headers.get("grpc-status")?.to_str().ok()?;
    Some(match status {
        "0" => StatusCode::OK,
        "3" | "9" | "11" => StatusCode::BAD_REQUEST,
        "5" => StatusCode::NOT_FOUND,
        "6" => StatusCode::CONFLICT,
        "7" => StatusCode::FORBIDDEN,
        "8" => StatusCode::TOO_MANY_REQUESTS,
        "16" => StatusCode::UNAUTHORIZED,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    /// By these the preset decides what is kept.
    #[test]
    fn every_status_of_grpc_stands_for_one_of_http() {
        let expected = [200, 500, 500, 400, 500, 404, 409, 403, 429, 400, 500, 400, 500, 500, 500, 500, 401, 500];
        for (code, expected) in expected.into_iter().enumerate() {
            let headers = HeaderMap::from_iter([(HeaderName::from_static("grpc-status"), HeaderValue::from(code))]);
            assert_eq!(grpc_status(&headers).map(|status| status.as_u16()), Some(expected), "{code}");
        }
        assert_eq!(grpc_status(&HeaderMap::new()), None);
    }
}
