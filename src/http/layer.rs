//! The layer and its settings.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderName, Method, Response, response};
use tower_layer::Layer;

use super::fingerprint::Parting;
use super::handle::LayerHandle;
use super::header::Syntax;
use super::policy::{Keep, KeptHeaders, Policy, Preset};
use super::problem::ProblemStyle;
use super::service::Idempotency;
use super::stored::BYTES_BESIDE_BODY_MAX;
use crate::error::Error;
use crate::key::{Fingerprint, Key};
use crate::record::Outcome;
use crate::run::Run;
use crate::store::Store;

const REQUEST_BYTES_MAX: usize = 1024 * 1024;
const RESPONSE_BYTES_MAX: usize = 1024 * 1024;

/// The scope of all keys where there is one tenant.
const SINGLE_TENANT: &str = "http";

const HEADER: HeaderName = HeaderName::from_static("idempotency-key");

type OfParts = dyn Fn(&Parts) -> Option<String> + Send + Sync;
type OnFailure = dyn Fn(&Key, &Error) + Send + Sync;
type Render = dyn Fn(&Outcome) -> Option<Response<Bytes>> + Send + Sync;

/// A layer that has not been told yet in whose name keys are kept. It is none for a service, so it does not compile
/// where one is needed.
#[derive(Debug, Clone, Copy)]
pub enum Unscoped {}

/// A layer that knows in whose name keys are kept.
#[derive(Debug, Clone, Copy)]
pub enum Scoped {}

/// A [`tower_layer::Layer`] that gives requests with an `Idempotency-Key` one answer for each key, whatever happens.
///
/// ```
/// use http::request::Parts;
/// use reentry::Store;
/// use reentry::http::IdempotencyLayer;
///
/// #[derive(Clone)]
/// struct Principal(String);                                  // what the authentication outside puts into a request
///
/// let store = Store::builder().in_memory()?;
/// let layer = IdempotencyLayer::new(&store)
///     .scope(|request: &Parts| request.extensions.get::<Principal>().map(|principal| principal.0.clone()));
/// # fn is_layer<L: tower_layer::Layer<()>>(_: L) {}
/// # is_layer(layer);
/// # Ok::<(), reentry::Error>(())
/// ```
///
/// In whose name keys are kept cannot be left out:
///
/// ```compile_fail
/// # fn is_layer<L: tower_layer::Layer<()>>(_: L) {}
/// let store = reentry::Store::builder().in_memory().unwrap();
/// is_layer(reentry::http::IdempotencyLayer::new(&store));
/// ```
///
/// Cloning is cheap; clones share figures and [`handle`](Self::handle).
#[must_use = "a layer does nothing until it is put around a service"]
pub struct IdempotencyLayer<State = Scoped> {
    pub(super) settings: Arc<Settings>,
    state: PhantomData<State>,
}

/// What a layer was told.
#[derive(Clone)]
pub(super) struct Settings {
    pub(super) store: Store,
    pub(super) handle: Arc<LayerHandle>,
    /// None where there is one tenant.
    scope: Option<Arc<OfParts>>,
    pub(super) name: Box<str>,
    pub(super) is_required: bool,
    pub(super) methods: Vec<Method>,
    pub(super) header: HeaderName,
    pub(super) syntax: Syntax,
    pub(super) parting: Parting,
    pub(super) request_bytes_max: usize,
    pub(super) response_bytes_max: usize,
    pub(super) policy: Policy,
    pub(super) kept_headers: KeptHeaders,
    pub(super) render: Option<Arc<Render>>,
    pub(super) patience: Option<Duration>,
    pub(super) is_detached: bool,
    pub(super) claims: Claims,
    pub(super) problems: ProblemStyle,
    on_failure: Arc<OnFailure>,
    retention: Option<Duration>,
}

/// How keys are claimed.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Claims {
    pub(super) is_deferred: bool,
    pub(super) keeps_requests: bool,
}

impl IdempotencyLayer<Unscoped> {
    /// A layer over this store, once it is told in whose name keys are kept: [`scope`](Self::scope), or
    /// [`single_tenant`](Self::single_tenant).
    pub fn new(store: &Store) -> Self {
        let settings = Settings {
            store: store.clone(),
            handle: Arc::new(LayerHandle::new()),
            scope: None,
            name: Box::default(),
            is_required: false,
            methods: vec![Method::POST, Method::PATCH],
            header: HEADER,
            syntax: Syntax::Lenient,
            parting: Parting::default(),
            request_bytes_max: REQUEST_BYTES_MAX,
            response_bytes_max: RESPONSE_BYTES_MAX,
            policy: Policy::default(),
            kept_headers: KeptHeaders::default(),
            render: None,
            patience: None,
            is_detached: true,
            claims: Claims::default(),
            problems: ProblemStyle::default(),
            on_failure: Arc::new(|_, _| {}),
            retention: None,
        };
        Self { settings: Arc::new(settings), state: PhantomData }
    }

    /// Keeps each key in the name of the principal that this finds in the request (P9): who the client *is*, as the
    /// authentication outside of this layer has established, and never what a client only says, a header of its own or
    /// a part of its path. 1 to 128 bytes without control characters.
    ///
    /// Where it finds none, a request with a key is refused with 403.
    pub fn scope<P: Into<String>>(
        self,
        of_request: impl Fn(&Parts) -> Option<P> + Send + Sync + 'static,
    ) -> IdempotencyLayer {
        let of_request: Arc<OfParts> = Arc::new(move |parts| of_request(parts).map(Into::into));
        self.scoped(Some(of_request))
    }

    /// Says that all clients are one: whoever knows a key of one of them is served its answer. Right where there is one
    /// client, or where keys are made by the server itself.
    pub fn single_tenant(self) -> IdempotencyLayer {
        self.scoped(None)
    }

    fn scoped(mut self, scope: Option<Arc<OfParts>>) -> IdempotencyLayer {
        Arc::make_mut(&mut self.settings).scope = scope;
        IdempotencyLayer { settings: self.settings, state: PhantomData }
    }
}

/// What a layer can be told. Each sets one thing, and says its default.
impl<State> IdempotencyLayer<State> {
    fn with(mut self, set: impl FnOnce(&mut Settings)) -> Self {
        set(Arc::make_mut(&mut self.settings));
        self
    }

    /// Names what is behind the layer. The name goes into the fingerprint, so that a key that was used behind one layer
    /// is another request's behind the next: for layers over one store whose services see the same paths, as in nested
    /// routers. Default: no name.
    pub fn named(self, name: &str) -> Self {
        self.with(|settings| settings.name = name.into())
    }

    /// Refuses requests of the [`methods`](Self::methods) without a key, with 400. Default: they are passed on, and
    /// guarded by nothing.
    pub fn required(self) -> Self {
        self.with(|settings| settings.is_required = true)
    }

    /// The methods whose requests may have a key. Others are passed on, whatever their headers say. Default: POST and
    /// PATCH, which are not idempotent by themselves.
    pub fn methods(self, methods: impl IntoIterator<Item = Method>) -> Self {
        self.with(|settings| settings.methods = methods.into_iter().collect())
    }

    /// The header that carries the key. Default: `Idempotency-Key`.
    pub fn header(self, name: HeaderName) -> Self {
        self.with(|settings| settings.header = name)
    }

    /// Takes only what the draft says, a String of structured fields: `"key"`. Default: a bare value too, which is the
    /// same key.
    pub fn strict(self) -> Self {
        self.with(|settings| settings.syntax = Syntax::Strict)
    }

    /// What the fingerprint is made of beside name, method, path, query and body: these headers. Default:
    /// `Content-Type`.
    pub fn fingerprint_headers(self, names: impl IntoIterator<Item = HeaderName>) -> Self {
        self.with(|settings| settings.parting = Parting::Of(names.into_iter().collect()))
    }

    /// Makes the fingerprint, of the request and its body. It must differ wherever two requests are not the same, and
    /// be equal for every retry of one; prefix its parts by their lengths.
    pub fn fingerprint(self, of_request: impl Fn(&Parts, &[u8]) -> Fingerprint + Send + Sync + 'static) -> Self {
        self.with(|settings| settings.parting = Parting::Own(Arc::new(of_request)))
    }

    /// The largest body of a request with a key; a larger one is refused with 413. Default: 1 MiB.
    pub fn request_bytes_max(self, bytes: usize) -> Self {
        self.with(|settings| settings.request_bytes_max = bytes)
    }

    /// The largest body of an answer that is kept; a larger one is passed on and its operation ended
    /// ([`Keep::Ended`]). The store's limit on a payload counts too; headers may take 64 KiB beside it. Default: 1 MiB.
    pub fn response_bytes_max(self, bytes: usize) -> Self {
        self.with(|settings| settings.response_bytes_max = bytes)
    }

    /// Which answers are outcomes. Default: [`Preset::Resume`].
    pub fn keep(self, preset: Preset) -> Self {
        self.with(|settings| settings.policy = Policy::Preset(preset))
    }

    /// Decides of each answer, by its head, whether it is the outcome. The head of a call of gRPC does not tell its
    /// status where that comes with the trailers, as that of a success does: there a [preset](Self::keep) sees more.
    pub fn keep_by(self, decide: impl Fn(&response::Parts) -> Keep + Send + Sync + 'static) -> Self {
        self.with(|settings| settings.policy = Policy::Own(Arc::new(decide)))
    }

    /// Keeps this header of answers too. What belongs to one client, connection or moment is not kept even so.
    /// Default: `Content-Type`, `Content-Encoding`, `Content-Language`, `Content-Disposition`, `Location`, `ETag`,
    /// `Link` and `Retry-After`.
    pub fn keep_header(self, name: HeaderName) -> Self {
        self.with(|settings| settings.kept_headers.add(name))
    }

    /// Makes a response of an outcome that is no [`StoredResponse`](super::StoredResponse): one that a handler, or a
    /// resumer, completed with a payload of its own. Where it gives none the request is told that its answer cannot be
    /// repeated (409), which is the default.
    pub fn render(self, render: impl Fn(&Outcome) -> Option<Response<Bytes>> + Send + Sync + 'static) -> Self {
        self.with(|settings| settings.render = Some(Arc::new(render)))
    }

    /// Lets a copy of a request wait so long for the run at work, and then be answered with what that came to. Waiting
    /// takes a tokio runtime with its timer on; elsewhere, and by default, a copy is told at once to come later (409).
    /// Tokio tells by a panic alone that a timer is off. It is caught; where panics abort, turn the timer on.
    pub fn wait_for_busy(self, patience: Duration) -> Self {
        self.with(|settings| settings.patience = Some(patience))
    }

    /// Drops the handler of a client that disconnects, as hyper does by itself: its run is interrupted, cleanly.
    /// Default: where a tokio runtime is there, the handler of a request with a key is run detached from the
    /// connection, to its end.
    ///
    /// A detached handler runs in a task of its own: a task-local of the connection's is not seen in it.
    pub fn attached(self) -> Self {
        self.with(|settings| settings.is_detached = false)
    }

    /// Defers the claim ([`Request::deferred`](crate::Request::deferred)): one durable wait less for each request. The
    /// handler's first step or checkpoint writes it, or else the outcome. Where the process dies before that, or that
    /// write fails, the key was never claimed: its retry is a first request, and so is another request under it.
    /// Default: no.
    pub fn deferred(self) -> Self {
        self.with(|settings| settings.claims.is_deferred = true)
    }

    /// Keeps the request's body with the operation until it ends, for a [`Resumer`](crate::Resumer), which finishes it
    /// without its client ([`Run::request`](crate::Run::request)); see [`prepare`](Self::prepare). Default: no.
    pub fn keep_requests(self) -> Self {
        self.with(|settings| settings.claims.keeps_requests = true)
    }

    /// Where the service documents how it treats keys: the `type` of every problem. Default: `about:blank`.
    pub fn documentation(self, url: &str) -> Self {
        self.with(|settings| settings.problems.documentation = Some(url.to_owned()))
    }

    /// Adds `Link: <url>; rel="describedby"` to every problem, with the url of the
    /// [`documentation`](Self::documentation).
    pub fn link_documentation(self) -> Self {
        self.with(|settings| settings.problems.is_linked = true)
    }

    /// What `Retry-After` says, in whole seconds, one at least. Default: one.
    pub fn retry_after(self, span: Duration) -> Self {
        self.with(|settings| settings.problems.retry_after = span)
    }

    /// What is told, for a log, when the store fails: it could not decide about a key, or keep an answer that then went
    /// out all the same, both of which [`LayerStats`](super::LayerStats) counts; and what error a handler answered with
    /// a [`Problem`](super::Problem).
    pub fn on_failure(self, tell: impl Fn(&Key, &Error) + Send + Sync + 'static) -> Self {
        self.with(|settings| settings.on_failure = Arc::new(tell))
    }

    /// How long the answers behind this layer are kept ([`Run::keep_for`](crate::Run::keep_for)). Default: the store's
    /// [retention](crate::Builder::retention), which [`describe`](Self::describe) then does not tell.
    ///
    /// The run of a [`Resumer`](crate::Resumer) did not come through the layer: it keeps its outcome for so long where
    /// [`prepare`](Self::prepare) was called for it, and else for the store's retention.
    pub fn retention(self, span: Duration) -> Self {
        self.with(|settings| settings.retention = Some(span))
    }

    /// Gives a run that did not come through the layer what the layer gives to those that do: its
    /// [`retention`](Self::retention), and room for headers beside a body of the largest size.
    ///
    /// It is for the function of a [`Resumer`](crate::Resumer), which finishes what handlers behind the layer left.
    /// Without it the store's retention counts, and where that is shorter the request is done again inside of the time
    /// that clients were told.
    ///
    /// ```
    /// use http::StatusCode;
    /// use reentry::http::{IdempotencyLayer, StoredResponse};
    /// use reentry::{Resumer, Run, Store};
    /// use std::time::Duration;
    ///
    /// fn finish(mut run: Run) -> reentry::Result<()> {
    ///     let order = run.request().unwrap_or_default().to_vec();     // the steps of the handler, and then its answer
    ///     run.complete_with(&StoredResponse::new(StatusCode::CREATED, order), |_| Ok(())).wait()?;
    ///     Ok(())
    /// }
    ///
    /// let store = Store::builder().in_memory()?;
    /// let week = Duration::from_secs(7 * 86_400);
    /// let layer = IdempotencyLayer::new(&store).single_tenant().keep_requests().retention(week);
    /// let prepares = layer.clone();
    /// let resumer = Resumer::builder(&store).start(move |mut run| {
    ///     prepares.prepare(&mut run);
    ///     finish(run)
    /// })?;
    /// # resumer.stop();
    /// # Ok::<(), reentry::Error>(())
    /// ```
    pub fn prepare(&self, run: &mut Run) {
        self.settings.prepare(run);
    }

    /// Figures, and the work that is under way.
    pub fn handle(&self) -> Arc<LayerHandle> {
        Arc::clone(&self.settings.handle)
    }

    /// What clients have to know, to publish: the draft asks every service for it (section 2.5).
    pub fn describe(&self) -> String {
        self.settings.describe()
    }
}

impl Settings {
    /// In whose name the keys of a request are kept; none where nobody is known.
    pub(super) fn scope(&self, parts: &Parts) -> Option<String> {
        match &self.scope {
            Some(of_request) => of_request(parts),
            None => Some(SINGLE_TENANT.to_owned()),
        }
    }

    /// What every run is given that is to end as those behind the layer do.
    pub(super) fn prepare(&self, run: &mut Run) {
        run.outcome_bytes_beside = BYTES_BESIDE_BODY_MAX;
        if let Some(span) = self.retention {
            run.keep_for(span);
        }
    }

    pub(super) fn tell(&self, key: &Key, error: &Error) {
        (self.on_failure)(key, error);
    }

    fn describe(&self) -> String {
        let methods = self.methods.iter().map(Method::as_str).collect::<Vec<_>>().join(" and ");
        let (need, header) = (if self.is_required { "must" } else { "may" }, &self.header);
        let syntax = match self.syntax {
            Syntax::Strict => "a String of structured fields (RFC 9651), in double quotes",
            Syntax::Lenient => "a String of structured fields (RFC 9651), in double quotes, or the same without quotes",
        };
        let whose = if self.scope.is_some() { "Keys are kept for each principal" } else { "All clients share keys" };
        let retention = match self.retention {
            Some(span) => format!("for {} after the request was done", shown(span)),
            None => "for as long as this service documents".to_owned(),
        };
        let busy = match self.patience {
            Some(patience) => format!("waits up to {}, and then gets 409", shown(patience)),
            None => "gets 409".to_owned(),
        };
        let (parting, policy) = (self.parting.describe(), self.policy.describe());
        let (headers, documentation) = (self.kept_headers.describe(), self.problems.documentation.as_deref());
        let (request, response) = (self.request_bytes_max, self.response_bytes_max);
        let documentation = documentation.map(|url| format!("\nSee also <{url}>.\n")).unwrap_or_default();
        format!(
            "# Idempotency\n\n\
             A request with {methods} {need} carry a key in the header `{header}`: {syntax}, of 1 to 255 printable \
             ASCII characters. Use a new one, such as a UUID, for each operation, and the same one for every retry of \
             it. {whose}.\n\n\
             - **Kept**: {policy}; status, body and the headers {headers}. A copy of the request gets the same answer, \
             with `Idempotent-Replayed: true`, {retention}.\n\
             - **Not kept**: every other answer. Send the same request again: it goes on where it stopped.\n\
             - **The same request**: {parting}. Another request under a known key gets 422; do not retry it.\n\
             - **At work**: a copy that comes while the first is at work {busy} with `Retry-After`.\n\
             - **Limits**: a request has a body of at most {request} bytes (else 413). An answer over {response} \
             bytes, or one that is streamed, is not kept: a copy gets 409 with the code `replay_unavailable`, and is \
             not done again.\n\
             - **Errors**: `application/problem+json` with a member `code`: 400 `key_missing`, `key_malformed`, \
             `body_broken`; 403 `principal_missing`; 409 `in_progress`, `in_doubt`, `replay_unavailable`; 410 \
             `answer_gone`; 413 `request_too_large`; 422 `key_reused`; 500 `internal_error`; 503 \
             `unavailable`. Retry those that carry `Retry-After`.\n{documentation}"
        )
    }
}

/// A span in the largest unit that says all of it, down to the milliseconds that the store counts in.
fn shown(span: Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        _ if seconds == 0 || span.subsec_nanos() > 0 => format!("{} ms", span.as_millis()),
        _ if seconds.is_multiple_of(86_400) => format!("{} d", seconds / 86_400),
        _ if seconds.is_multiple_of(3_600) => format!("{} h", seconds / 3_600),
        _ if seconds.is_multiple_of(60) => format!("{} min", seconds / 60),
        _ => format!("{seconds} s"),
    }
}

impl<S> Layer<S> for IdempotencyLayer {
    type Service = Idempotency<S>;

    fn layer(&self, inner: S) -> Idempotency<S> {
        Idempotency::new(inner, Arc::clone(&self.settings))
    }
}

impl<State> Clone for IdempotencyLayer<State> {
    fn clone(&self) -> Self {
        Self { settings: Arc::clone(&self.settings), state: PhantomData }
    }
}

impl<State> fmt::Debug for IdempotencyLayer<State> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("IdempotencyLayer").field(&self.settings).finish()
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Settings");
        shown.field("name", &self.name).field("is_required", &self.is_required).field("methods", &self.methods);
        shown.field("header", &self.header).field("syntax", &self.syntax).field("parting", &self.parting);
        shown.field("policy", &self.policy).field("patience", &self.patience).finish_non_exhaustive()
    }
}
